"""What the protocol tells of the server, its models and the repository."""

from importlib.metadata import version

from service.errors import ModelNotFound, NotReady
from service.models import Models, ServedModel
from service.open_inference.messages import IndexEntry, ModelMetadata, ServerMetadata, TensorDescription

PACKAGE = "strip-mlp-serving"

EXTENSIONS = ["binary_tensor_data", "classification", "model_repository"]


MOST_DIGITS = 18
"""More than any version has; Python refuses to read thousands of them."""


def server_metadata() -> ServerMetadata:
    """Name, version and extensions."""
    return ServerMetadata(name=PACKAGE, version=version(PACKAGE), extensions=EXTENSIONS)


def model_metadata(model: ServedModel, models: Models) -> ModelMetadata:
    """What a model takes and gives."""
    architecture = model.artifact.architecture
    size, classes = architecture.image_size, architecture.num_classes
    name = model.file.name
    return ModelMetadata(
        name=name,
        versions=[str(each.file.version) for each in models.served if each.file.name == name],
        inputs=[
            TensorDescription(name="pixels", datatype="UINT8", shape=[-1, size, size, 3]),
            TensorDescription(name="image", datatype="BYTES", shape=[-1]),
        ],
        outputs=[
            TensorDescription(name=output, datatype="FP32", shape=[-1, classes])
            for output in ("logits", "probabilities")
        ],
    )


def is_ready(models: Models) -> bool:
    """Whether every model can answer."""
    try:
        models.require_ready()
    except NotReady:
        return False
    return True


def is_model_ready(models: Models, name: str, number: int | None) -> bool:
    """Whether this model can answer. Raises ModelNotFound if there is none of that name and version."""
    try:
        with models.use(name, number) as model:
            model.require_working()
    except NotReady:
        return False
    return not models.draining


def version_number(model: str, text: str | None) -> int | None:
    """Of the protocol's string, of which none and an empty one mean the newest.

    Raises:
        ModelNotFound: it is no number, and so no version.
    """
    if not text:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > MOST_DIGITS:
        raise ModelNotFound(f"model '{model}' has no version '{text}'; versions are whole numbers")
    return int(text)


def repository_index(models: Models, *, ready_alone: bool) -> list[IndexEntry]:
    """Every version that is served, and those that could not be loaded or were unloaded."""
    entries = [
        IndexEntry(name=model.file.name, version=str(model.file.version), state="READY", reason="")
        for model in models.served
    ]
    if not ready_alone:
        entries += [
            IndexEntry(name=name, version=str(number), state="UNAVAILABLE", reason=models.public(message))
            for (name, number), message in models.errors.items()
        ]
        entries += [
            IndexEntry(name=name, version="", state="UNAVAILABLE", reason="unloaded")
            for name in sorted(models.unloaded)
        ]
    return entries
