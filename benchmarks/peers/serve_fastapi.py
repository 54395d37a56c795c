"""FastAPI as a first service is written: a sync endpoint, one picture at a time in Starlette's pool of 40 threads."""

from typing import Annotated, Any

from common import Contract, Model
from fastapi import Body, FastAPI

app = FastAPI()
contract, model = Contract.from_environment(), Model.from_environment()


@app.post("/classify")
def classify(jpeg: Annotated[bytes, Body(media_type="image/jpeg")]) -> dict[str, Any]:
    """The answer for one picture."""
    return contract.answer(model.infer(contract.decode(jpeg)[None])[0])
