"""`serve`: limits, hostile requests, the description of the interface, and the page."""

import asyncio
import base64
import io
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest
import schemathesis
import soundfile
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import Request, expect, sync_playwright
from schemathesis.specs.openapi.checks import positive_data_acceptance

from stages.core.errors import ConfigurationError, PipelineError
from stages.inference import server
from stages.inference.classifier import Prediction
from stages.inference.server import Limits, bind, build_app

RATE = 16_000
FRAME = 2560


class Loudness:
    """A stand-in for a classifier: the louder, the more probable is `loud`.

    What is quiet is rejected; what is at full scale fails.
    """

    intents = ("<b>loud</b>", "soft", "silent")
    slots: dict[str, list[str]] = {}  # noqa: RUF012

    def __init__(self) -> None:
        self.about = {"longest_seconds": 20.0, "frame_step": FRAME, "student": "aln"}
        self.open = threading.Event()
        self.open.set()
        self.at_once = self.most_at_once = 0

    def __call__(
        self, wave: np.ndarray, sample_rate: int, *, reject: bool = True
    ) -> Prediction:
        assert sample_rate == RATE
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        assert self.open.wait(10)
        self.at_once -= 1
        peak = float(np.abs(wave).max())
        if peak >= 0.999:
            raise RuntimeError("a bug")
        probabilities = np.array([peak, (1 - peak) * 0.7, (1 - peak) * 0.3])
        order = np.argsort(-probabilities)
        ranked = [(self.intents[i], float(probabilities[i])) for i in order]
        rejected = reject and peak < 0.01
        intent = "none" if rejected else ranked[0][0]
        attention = np.array(
            [np.abs(wave[at : at + FRAME]).sum() for at in range(0, len(wave), FRAME)]
        )
        attention = (attention + 1e-6) / (attention + 1e-6).sum()
        slots = {} if rejected else {"<i>level</i>": "<i>high</i>", "room": "none"}
        seconds = len(wave) / RATE
        return Prediction(
            intent,
            ranked[0][1],
            rejected,
            slots,
            ranked,
            seconds,
            attention.astype(np.float32),
        )


def tone(seconds: float = 1.0, level: float = 0.8, rate: int = RATE) -> np.ndarray:
    """Silence, then a tone from the middle."""
    time = np.arange(int(seconds * rate)) / rate
    return level * np.sin(2 * np.pi * 300 * time) * (time >= seconds / 2)


def audio(
    samples: np.ndarray, rate: int = RATE, kind: str = "WAV", subtype: str | None = None
) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=kind, subtype=subtype)
    return file.getvalue()


@pytest.fixture
def classifier() -> Loudness:
    return Loudness()


@pytest.fixture
def client(classifier: Loudness) -> TestClient:
    app = build_app(classifier, Limits(megabytes=0.5, seconds=30))
    return TestClient(app, raise_server_exceptions=False)


def asynchronous(app: FastAPI) -> httpx2.AsyncClient:
    transport = httpx2.ASGITransport(app)
    return httpx2.AsyncClient(transport=transport, base_url="http://test")


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_recording_is_classified(client: TestClient, kind: str) -> None:
    response = client.post(
        "/predict?attention=1&top=2", content=audio(tone(), kind=kind)
    )
    assert response.status_code == 200, response.text
    answer = response.json()
    assert answer["intent"] == "<b>loud</b>" == answer["ranked"][0]["intent"]
    assert answer["probability"] == pytest.approx(0.8, abs=0.1)
    assert len(answer["ranked"]) == 2
    assert answer["seconds"] == pytest.approx(1, abs=0.1)
    assert answer["frame_seconds"] == FRAME / RATE
    attention = np.array(answer["attention"])
    assert attention.sum() == pytest.approx(1, abs=1e-5)
    # The tone is in the second half.
    assert attention[3:].sum() > 0.95


def test_options(client: TestClient) -> None:
    quiet = audio(tone(level=0.001), 16_000)
    found = client.post("/predict", content=quiet).json()
    assert (found["intent"], found["rejected"]) == ("none", True)
    assert "attention" not in found
    assert len(found["ranked"]) == 3
    found = client.post("/predict?reject=false", content=quiet).json()
    assert (found["intent"], found["rejected"]) == ("soft", False)
    about = client.get("/model").json()
    assert about["intents"] == ["<b>loud</b>", "soft", "silent"]
    assert "slots" not in about
    # The model accepts less than the server.
    assert about["limits"] == {"megabytes": 0.5, "seconds": 20, "concurrency": 2}


def test_slots_are_described(classifier: Loudness, client: TestClient) -> None:
    classifier.slots = {"<i>level</i>": ["<i>high</i>"], "room": ["hall", "none"]}
    about = client.get("/model").json()
    assert about["slots"] == classifier.slots and "intents" not in about
    found = client.post("/predict", content=audio(tone())).json()
    assert found["slots"] == {"<i>level</i>": "<i>high</i>", "room": "none"}


def with_rate(rate: int) -> bytes:
    data = bytearray(audio(tone()))
    data[24:28] = rate.to_bytes(4, "little")
    return bytes(data)


def with_frames(frames: int) -> bytes:
    """A FLAC of a second whose header declares another length; 0 is an unknown one."""
    data = bytearray(audio(tone(), kind="FLAC"))
    # 36 bits in STREAMINFO, from the lower half of byte 21.
    data[21] = data[21] & 0xF0 | frames >> 32
    data[22:26] = (frames & 0xFFFF_FFFF).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("frames", [0, 2**36 - 1])
def test_a_length_that_no_file_has_is_not_believed(
    client: TestClient, frames: int
) -> None:
    response = client.post("/predict", content=with_frames(frames))
    assert response.json()["seconds"] == 1, response.text


def impossible() -> np.ndarray:
    samples = tone()
    samples[5] = np.nan
    return samples


REFUSED = {
    "empty": (b"", 400, "empty"),
    "text": (b"turn on the light", 400, "not an audio file"),
    "header alone": (audio(tone())[:44], 400, "cut off|empty"),
    "cut off": (audio(tone())[:20_000], 400, "cut off"),
    "no samples": (audio(np.empty(0)), 400, "empty"),
    "NaN": (audio(impossible(), subtype="FLOAT"), 400, "not samples"),
    "odd rate": (with_rate(15_991), 400, "15,991 Hz"),
    "hours of silence": (audio(np.zeros(3600 * RATE), kind="FLAC"), 413, "20 s"),
    "channels": (audio(np.zeros((9, 200)), 1000), 413, "192,000"),
    "megabytes": (bytes(500_001), 413, "0.5 MB"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_recording_that_is_refused(client: TestClient, name: str) -> None:
    data, status, reason = REFUSED[name]
    response = client.post("/predict", content=data)
    assert response.status_code == status, response.text
    detail = response.json()["detail"]
    assert re.search(reason, detail)
    assert "/" not in detail  # a path
    # The next one is answered.
    assert client.post("/predict", content=audio(tone())).status_code == 200


def test_no_more_is_decoded_than_the_longest_recording(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    read = soundfile.SoundFile.read

    def counted(file: soundfile.SoundFile, *how: object, **more: object) -> np.ndarray:
        decoded.append(read(file, *how, **more))
        return decoded[-1]

    monkeypatch.setattr(soundfile.SoundFile, "read", counted)
    hours = audio(np.zeros(3600 * RATE), kind="FLAC")
    assert client.post("/predict", content=hours).status_code == 413
    assert 20 * RATE < sum(map(len, decoded)) < 100 * RATE


def test_a_form_and_wrong_parameters(client: TestClient) -> None:
    form = client.post("/predict", files={"file": ("x.wav", audio(tone()))})
    assert form.status_code == 415
    assert "--data-binary" in form.json()["detail"]
    assert client.post("/predict?top=0", content=audio(tone())).status_code == 422
    assert client.get("/predict").status_code == 405


def test_a_failure_does_not_stop_the_server(client: TestClient) -> None:
    response = client.post("/predict", content=audio(tone(level=1.0), subtype="FLOAT"))
    assert response.status_code == 500
    assert response.json() == {"detail": "the recording could not be classified"}
    assert client.post("/predict", content=audio(tone())).status_code == 200


ENCODED = {kind: audio(tone(0.3), kind=kind) for kind in ("WAV", "FLAC", "OGG", "MP3")}
FUZZED = TestClient(build_app(Loudness()))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(ENCODED)), st.data())
def test_damaged_recordings(kind: str, data: st.DataObject) -> None:
    damaged = bytearray(ENCODED[kind])
    places = st.integers(0, min(len(damaged), 400) - 1) | st.integers(
        0, len(damaged) - 1
    )
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(places)] = data.draw(st.integers(0, 255))
    try:
        response = FUZZED.post("/predict", content=bytes(damaged))
    except RuntimeError as error:
        # Damage that makes it too loud for the stand-in.
        assert str(error) == "a bug"
        return
    assert response.status_code in (200, 400, 413), response.text


def test_an_upload_is_read_up_to_the_limit() -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 10_000
            yield bytes(10_000)

    async def run() -> httpx2.Response:
        async with asynchronous(build_app(Loudness(), Limits(megabytes=0.1))) as one:
            return await one.post("/predict", content=endless())

    assert asyncio.run(run()).status_code == 413
    assert sent <= 130_000


def test_an_upload_that_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "_UPLOAD_SECONDS", 0.05)

    async def stalled() -> AsyncIterator[bytes]:
        yield b"RIFF"
        await asyncio.sleep(10)

    async def run() -> httpx2.Response:
        async with asynchronous(build_app(Loudness())) as one:
            return await one.post("/predict", content=stalled())

    assert asyncio.run(run()).status_code == 408


def test_too_many_requests(classifier: Loudness) -> None:
    app = build_app(classifier, Limits(concurrency=2))
    data = audio(tone())
    classifier.open.clear()

    async def run() -> None:
        async with asynchronous(app) as client:
            waiting = [
                asyncio.create_task(client.post("/predict", content=data))
                for _ in range(16)
            ]
            await asyncio.sleep(0.2)
            refused = await client.post("/predict", content=data)
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            # What needs no place is answered.
            assert (await client.get("/model")).status_code == 200
            classifier.open.set()
            answers = await asyncio.gather(*waiting)
            assert [one.status_code for one in answers] == [200] * 16
            assert (await client.post("/predict", content=data)).status_code == 200

    asyncio.run(run())
    assert classifier.most_at_once == 2


opened: list[str] | None = None


def _note(event: str, arguments: tuple) -> None:
    if event == "open" and opened is not None:
        opened.append(str(arguments[0]))


def test_no_name_of_a_request_reaches_the_file_system(client: TestClient) -> None:
    global opened
    sys.addaudithook(_note)
    name = "../../etc/passwd"
    client.post("/predict", content=audio(tone()))
    opened = []
    try:
        for path in (name, "..%2f..%2fetc%2fpasswd", "page.html", "docs", "static/x"):
            assert client.get(f"/{path}").status_code == 404
        headers = {
            "Content-Disposition": f'attachment; filename="{name}"',
            "X-Filename": name,
        }
        for data in (audio(tone()), b"no audio"):
            client.post(
                "/predict", params={"name": name}, headers=headers, content=data
            )
        client.get("/")
    finally:
        found, opened = opened, None
    assert found == []


schemathesis.openapi.media_type(
    "audio/wav", st.sampled_from([audio(tone(), kind="WAV")])
)
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", FUZZED.app)


@SCHEMA.parametrize()
@settings(max_examples=40, deadline=None)
def test_the_interface_is_as_described(case: schemathesis.Case) -> None:
    # Random bytes are as described, and still not audio.
    case.call_and_validate(excluded_checks=[positive_data_acceptance])


def test_the_description_names_body_and_answers() -> None:
    described = FUZZED.get("/openapi.json").json()
    predict = described["paths"]["/predict"]["post"]
    assert "audio/wav" in predict["requestBody"]["content"]
    codes = {"200", "400", "408", "413", "415", "422", "500", "503"}
    assert set(predict["responses"]) == codes


def test_the_page_loads_nothing_from_elsewhere(client: TestClient) -> None:
    response = client.get("/")
    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert not re.search(r"(src|href)=\"?(https?:)?//|innerHTML", response.text)


def test_an_address_in_use() -> None:
    with bind("127.0.0.1", 0) as bound:
        port = bound.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"port {port}.*--port"):
            bind("127.0.0.1", port)
    with pytest.raises(PipelineError, match="--host"):
        bind("no such host", 0)
    for host in (70 * "a", "a..b"):
        complaint = rf"--host cannot be used; found '{host}' \(.*label"
        with pytest.raises(ConfigurationError, match=complaint):
            bind(host, 0)


def test_server_and_listener_need_no_torch() -> None:
    program = (
        "import sys, stages.inference.server, stages.inference.listening\n"
        "from stages.inference.speech_detector import SpeechDetector\n"
        "SpeechDetector()\n"
        "heavy = {'torch', 'pandas', 'scipy', 'transformers', 'tqdm', 'h5py', 'dvc'}\n"
        "assert not heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.fixture
def address(classifier: Loudness) -> Iterator[str]:
    """Of a server in a thread."""
    bound = bind("127.0.0.1", 0)
    config = uvicorn.Config(build_app(classifier), log_level="warning", lifespan="off")
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [bound]})
    thread.start()
    yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    running.should_exit = True
    thread.join()


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
FLAGS += ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
DROP = """([data, name]) => {
  const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
  const dropped = new DataTransfer();
  dropped.items.add(new File([bytes], name));
  const how = { dataTransfer: dropped, bubbles: true, cancelable: true };
  document.body.dispatchEvent(new DragEvent("drop", how));
}"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_page_in_a_browser(
    classifier: Loudness, address: str, tmp_path: Path
) -> None:
    wrong: list[str] = []

    def look(request: Request) -> None:
        if not request.url.startswith((address, "blob:", "data:")):
            wrong.append(request.url)

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.on("request", look)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda message: wrong.append(message.text))
        page.goto(address)
        expect(page.locator("#model")).to_contain_text("3 intents")

        def drop(data: bytes, name: str) -> None:
            page.evaluate(DROP, [base64.b64encode(data).decode(), name])

        drop(audio(tone()), "<i>.wav")
        # Labels are text, not HTML.
        expect(page.locator("#intent")).to_have_text("<b>loud</b>")
        expect(page.locator("#status")).to_have_text("<i>.wav, 1.0 s")
        slots = page.locator("#slots li")
        expect(slots).to_have_text(["<i>level</i>: <i>high</i>", "room: none"])
        expect(slots).to_have_class(["", "soft"])
        expect(page.locator("#ranked li")).to_have_count(3)
        assert "0.64" in page.locator("#wave").get_attribute("aria-label")
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        # The tone is in the second half; so is what the canvas shows.
        sums = page.evaluate("""() => {
          const one = document.getElementById("wave"), { width } = one, sums = [0, 0];
          const { data } = one.getContext("2d").getImageData(0, 0, width, 100);
          for (let i = 3; i < data.length; i += 4) {
            sums[(i >> 2) % width < width / 2 ? 0 : 1] += data[i];
          }
          return sums;
        }""")
        assert sums[1] > 5 * sums[0] > 0

        page.locator("#file").set_input_files(
            {"name": "quiet.wav", "mimeType": "", "buffer": audio(tone(level=0.001))}
        )
        expect(page.locator("#intent")).to_have_text("none")
        page.get_by_label("Allow the answer").uncheck()
        expect(page.locator("#intent")).to_have_text("soft")
        drop(b"no audio", "notes.txt")
        expect(page.locator("#status")).to_contain_text("not an audio file")
        expect(page.locator("#result")).to_be_hidden()
        # Chromium logs the answer 400.
        wrong[:] = [one for one in wrong if "400" not in one]

        page.get_by_role("button", name="Record").press("Enter")
        expect(page.locator("#time")).to_contain_text("1.")
        page.get_by_role("button", name="Stop").press("Enter")
        expect(page.locator("#status")).to_contain_text("Recording, ")
        page.screenshot(path=tmp_path / "page.png", full_page=True)
        classifier.slots = {"<i>level</i>": [], "room": []}
        page.reload()
        expect(page.locator("#model")).to_contain_text("slots <i>level</i>, room")
        browser.close()
    assert wrong == []
