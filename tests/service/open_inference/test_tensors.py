"""The protocol's tensors."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from service.errors import BadRequest
from service.models import ServedModel
from service.open_inference.tensors import Output, Tensor, pictures_of
from tests.service.colours import SIZE
from tests.service.test_answers import model_of


@pytest.fixture(scope="module")
def model() -> ServedModel:
    return model_of("colours", 1)


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=8))
def test_pictures_as_tritons_client_writes_them_come_back(model: ServedModel, contents: list[bytes]) -> None:
    raw = serialize_byte_tensor(np.array([*contents, b""], dtype=object)[:-1]).item()
    pictures = pictures_of([Tensor("image", "BYTES", (len(contents),), raw)], model, 8)
    assert [picture.content for picture in pictures] == contents


@given(st.binary(max_size=60), st.integers(1, 4))
def test_any_bytes_are_pictures_or_refused(model: ServedModel, raw: bytes, count: int) -> None:
    try:
        pictures = pictures_of([Tensor("image", "BYTES", (count,), raw)], model, 8)
    except BadRequest:
        return
    contents = [picture.content for picture in pictures if isinstance(picture.content, bytes)]
    assert len(contents) == count
    assert b"".join(len(content).to_bytes(4, "little") + content for content in contents) == raw


@given(st.integers(1, 3), st.integers(0, 2**32 - 1), st.booleans())
def test_pixels_come_back_flat_or_nested(model: ServedModel, count: int, seed: int, nested: bool) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
    for content in (pixels.tobytes(), pixels.tolist() if nested else pixels.reshape(-1).tolist()):
        pictures = pictures_of([Tensor("pixels", "UINT8", pixels.shape, content)], model, 8)
        np.testing.assert_array_equal(np.stack([np.asarray(picture.content) for picture in pictures]), pixels)
        assert all(np.asarray(picture.content).dtype == np.uint8 for picture in pictures)


@given(st.lists(st.lists(st.text(), min_size=2, max_size=2), min_size=1, max_size=4))
def test_strings_are_read_back_by_tritons_client(rows: list[list[str]]) -> None:
    output = Output("logits", rows, binary=True)
    assert (output.datatype, output.shape) == ("BYTES", [len(rows), 2])
    assert [text.decode() for text in deserialize_bytes_tensor(output.raw)] == output.flat


@given(st.integers(1, 4), st.integers(1, 5))
def test_numbers_are_little_endian_row_by_row(pictures: int, classes: int) -> None:
    values = np.arange(pictures * classes, dtype=np.float32).reshape(pictures, classes)
    output = Output("logits", values, binary=True)
    assert (output.datatype, output.shape) == ("FP32", [pictures, classes])
    assert np.frombuffer(output.raw, "<f4").tolist() == output.flat == list(range(pictures * classes))
