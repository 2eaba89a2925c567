"""A page and an HTTP interface for a classifier.

    GET  /              the page: record or drop a recording, see its intent
    POST /predict       the bytes of an audio file in, intent and probabilities out
    GET  /model         what is known of the model, and the limits
    GET  /openapi.json  the description of these

Nothing of a request is written to disk, or used as a name. FastAPI's own /docs would
load scripts from another server, so there is none.
"""

import asyncio
import io
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import soundfile

from stages.core.errors import ConfigurationError, PipelineError, needs_extra
from stages.inference.classifier import IntentClassifier
from stages.speech.loading import SAMPLE_RATE, decode_audio, kernel_taps

with needs_extra("serve"):
    from fastapi import FastAPI, HTTPException, Query, Request
    from fastapi.responses import HTMLResponse, JSONResponse
    from pydantic import BaseModel
    from starlette.requests import ClientDisconnect

PAGE = Path(__file__).with_name("page.html")

_SAMPLES_PER_SECOND = 192_000
"""Most samples of all channels in a second; a small FLAC can declare five million."""

_KERNEL = 300_000
"""Most taps of the resampling kernel; 11,025 Hz has 282,240. Unusual rates would need
gigabytes."""

_UPLOAD_SECONDS = 30.0
"""Time to send a recording."""

_RETRY_SECONDS = 1

# The page runs its own script and talks to this server; nothing else.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' blob:; style-src 'unsafe-inline'; "
    "connect-src 'self'; media-src blob:; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Limits:
    """What a request can ask for.

    Attributes:
        megabytes: of a recording's file.
        seconds: of its audio; the model's own limit, if lower, is the one in force.
        concurrency: recordings classified at once; eight times as many requests can be
            in progress, uploads included.
    """

    megabytes: float = 10
    seconds: float = 60
    concurrency: int = 2


class RankedIntent(BaseModel):
    """An intent and its probability."""

    intent: str
    probability: float


class Answer(BaseModel):
    """The intent of a recording: `none` if it was rejected.

    With slots, it is the value of every slot, joined by `|`; `slots` has them by name.
    """

    intent: str
    probability: float
    rejected: bool
    slots: dict[str, str]
    seconds: float
    ranked: list[RankedIntent]
    attention: list[float] | None = None
    frame_seconds: float | None = None


class Problem(BaseModel):
    """Why a request was not answered."""

    detail: str


_PROBLEMS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem, "description": description}
    for code, description in {
        400: "Not audio, damaged or empty.",
        408: "The recording took too long to arrive.",
        413: "Too large or too long.",
        415: "A form; send the bytes of the file as the body.",
        500: "The recording could not be classified.",
        503: "Too many requests; try again after the seconds in Retry-After.",
    }.items()
}

_BODY = {
    "requestBody": {
        "description": "The bytes of a WAV, FLAC, OGG, MP3 or NIST SPHERE file.",
        "required": True,
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}}
            for kind in ("application/octet-stream", "audio/wav")
        },
    }
}


def build_app(classifier: IntentClassifier, limits: Limits | None = None) -> FastAPI:
    """The server's application."""
    service = _Service(classifier, limits or Limits())
    page = PAGE.read_text("utf-8")
    app = FastAPI(title="Intents from speech", docs_url=None, redoc_url=None)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def show_page() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": _POLICY})

    @app.get("/model")
    async def describe_model() -> dict[str, Any]:
        """What is known of the model, and the limits of a recording."""
        return service.describe()

    @app.post(
        "/predict",
        response_model_exclude_none=True,
        responses=_PROBLEMS,
        openapi_extra=_BODY,
    )
    async def predict(
        request: Request,
        reject: Annotated[bool, Query(description="Whether it can be `none`.")] = True,
        top: Annotated[
            int | None,
            Query(
                ge=1, description="Intents to list; all or the first 100 by default."
            ),
        ] = None,
        attention: Annotated[
            bool, Query(description="Also the share of attention on each frame.")
        ] = False,
    ) -> Answer:
        """Classify the recording in the body."""
        with service.place():
            data = await service.receive(request)
            answer = await service.classify(data, reject)
        answer.ranked = answer.ranked[:top]
        if not attention:
            answer.attention = answer.frame_seconds = None
        return answer

    @app.exception_handler(Exception)
    async def answer_failure(request: Request, error: Exception) -> JSONResponse:
        # The server goes on, and uvicorn logs the traceback.
        return JSONResponse({"detail": "the recording could not be classified"}, 500)

    return app


class _Service:
    """Receives recordings within the limits and classifies them in threads."""

    def __init__(self, classifier: IntentClassifier, limits: Limits) -> None:
        self._classifier = classifier
        self._frame_seconds = classifier.about["frame_step"] / SAMPLE_RATE
        longest = min(limits.seconds, classifier.about["longest_seconds"])
        self._limits = Limits(limits.megabytes, longest, limits.concurrency)
        self._bytes = int(limits.megabytes * 1_000_000)
        self._threads = ThreadPoolExecutor(limits.concurrency)
        self._free = 8 * limits.concurrency

    def describe(self) -> dict[str, Any]:
        about = self._classifier.about
        names = ("student", "weights", "accuracy", "trained_on")
        slots, intents = self._classifier.slots, self._classifier.intents
        return {
            **({"slots": slots} if slots else {"intents": intents}),
            **{name: about[name] for name in names if name in about},
            "limits": asdict(self._limits),
        }

    @contextmanager
    def place(self) -> Iterator[None]:
        """Take one of the places for requests, or answer 503."""
        if self._free == 0:
            wait = {"Retry-After": str(_RETRY_SECONDS)}
            raise HTTPException(503, "too many requests; try again soon", wait)
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1

    async def receive(self, request: Request) -> bytes:
        """The body; reads no more than the limit."""
        if request.headers.get("content-type", "").startswith("multipart/"):
            advice = "send the file itself as the body: curl --data-binary @FILE"
            raise HTTPException(415, f"a form is not a recording; {advice}")
        too_large = HTTPException(
            413, f"the file is larger than {self._limits.megabytes:g} MB"
        )
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._bytes:
            raise too_large
        data = bytearray()
        try:
            async with asyncio.timeout(_UPLOAD_SECONDS):
                async for part in request.stream():
                    data += part
                    if len(data) > self._bytes:
                        raise too_large
        except TimeoutError:
            raise HTTPException(408, "the recording took too long to arrive") from None
        except ClientDisconnect:
            raise HTTPException(400, "the upload was interrupted") from None
        return bytes(data)

    async def classify(self, data: bytes, reject: bool) -> Answer:
        """The answer for the bytes of a file, computed in a thread."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._classify, data, reject)

    def _classify(self, data: bytes, reject: bool) -> Answer:
        try:
            self._check_header(data)
            longest = self._limits.seconds
            wave = decode_audio(data, "the recording", longest)
            if len(wave) > longest * SAMPLE_RATE:
                raise HTTPException(413, f"the recording is longer than {longest:g} s")
            found = self._classifier(wave, SAMPLE_RATE, reject=reject)
        except PipelineError as error:
            raise HTTPException(400, error.reason) from None
        return Answer(
            **found.as_dict(),
            attention=found.attention.tolist(),
            frame_seconds=self._frame_seconds,
        )

    def _check_header(self, data: bytes) -> None:
        """Check what the header declares, before anything is decoded.

        A small file cannot become a large array: decoding stops at the longest
        recording, of so many samples a second.
        """
        if not data:
            raise HTTPException(400, "the body is empty; it must be an audio file")
        try:
            with soundfile.SoundFile(io.BytesIO(data)) as file:
                rate, channels = file.samplerate, file.channels
        except soundfile.LibsndfileError:
            known = "expected WAV, FLAC, OGG, MP3 or NIST SPHERE"
            raise HTTPException(400, f"not an audio file; {known}") from None
        if kernel_taps(rate) > _KERNEL:
            advice = "convert it to 16,000 Hz"
            raise HTTPException(
                400, f"{rate:,} Hz is not a usual sample rate; {advice}"
            )
        if rate * channels > _SAMPLES_PER_SECOND:
            most = f"{_SAMPLES_PER_SECOND:,} samples a second in all channels"
            raise HTTPException(413, f"the recording has more than {most}")


def bind(host: str, port: int) -> socket.socket:
    """A socket that accepts connections; port 0 is any free one.

    Raises:
        ConfigurationError: the address is in use, or not of this machine.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except UnicodeError as error:  # as a part of a name of more than 63 letters
        raise ConfigurationError(
            "--host cannot be used", found=f"{host[:100]!r} ({error})"
        ) from None
    except OSError as error:
        # `socket` adds the address to the text of an error of the system.
        code = error.errno or 0
        raise ConfigurationError(
            f"cannot listen on {host}, port {port}",
            found=os.strerror(code) if code > 0 else error.strerror,
            fix="choose another --port, or --host; or stop the program that uses it",
        ) from None


def serve(app: FastAPI, bound: socket.socket) -> None:
    """Answer requests until Ctrl-C or SIGTERM."""
    with needs_extra("serve"):
        import uvicorn
    uvicorn.Server(
        uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off")
    ).run(sockets=[bound])
