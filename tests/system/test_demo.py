"""`make demo` does the main job on real input, from nothing to the last thumbnail."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from PIL import Image

from examples.thumbnails.demo import options_of
from examples.thumbnails.thumbnails import SIZES
from tests.support.process import REPOSITORY, Process

PHOTOS = REPOSITORY / "examples" / "photos"
_TIMEOUT_S = 120.0


class Demo(Process):
    """`make demo` as a user types it, on ports that the system picks."""

    def __init__(self, out: Path, *variables: str, arguments: str = "--grpc-port 0 --http-port 0") -> None:
        super().__init__("make demo")
        self._command = ["make", "-s", "demo", f"OUT={out}", f"ARGS={arguments}", *variables]

    def command(self) -> Sequence[str]:
        return self._command

    async def run(self) -> int:
        """Run it to its end. Returns the exit code, which is make's: 0, or 2 for any other."""
        self.spawn()
        try:
            return await self.ended(_TIMEOUT_S)
        finally:
            self.clean()


async def test_every_photograph_gets_a_thumbnail_of_every_size_and_the_terminal_shows_how(tmp_path: Path) -> None:
    demo = Demo(tmp_path, "ONCE=1")

    assert await demo.run() == 0, demo.tail()

    photos = [photo for photo in PHOTOS.iterdir() if photo.suffix in (".png", ".jpg")]
    assert len(photos) == 6
    for photo in photos:
        for size in SIZES:
            with Image.open(tmp_path / photo.name / f"{size}.webp") as thumbnail, Image.open(photo) as original:
                assert thumbnail.format == "WEBP"
                assert max(thumbnail.size) == min(size, max(original.size))

    shown = [line.split() for line in demo.lines() if " % " in line and line.endswith(" px")]
    percents = {float(words[1]) for words in shown}
    assert len(percents & {round(100 * n / len(SIZES)) for n in range(1, len(SIZES))}) >= 5


async def test_a_file_that_is_no_picture_fails_for_good_and_the_others_finish(tmp_path: Path) -> None:
    photos, out = tmp_path / "my photos", tmp_path / "out"
    photos.mkdir()
    (photos / "rocket.jpg").write_bytes((PHOTOS / "rocket.jpg").read_bytes())
    (photos / "cut short.jpg").write_bytes((PHOTOS / "rocket.jpg").read_bytes()[:20_000])
    (photos / "notes.txt").write_text("The launch was at noon.\n")
    demo = Demo(out, "ONCE=1", f"PHOTOS={photos}")

    assert await demo.run() == 2, demo.tail()

    assert len(list((out / "rocket.jpg").glob("*.webp"))) == len(SIZES)
    text = "\n".join(demo.lines())
    assert "notes.txt: failed: notes.txt is not a picture that Pillow can read" in text
    assert "cut short.jpg: failed: cut short.jpg is a broken picture" in text
    assert f"{len(SIZES)} of {3 * len(SIZES)} thumbnails of 3 photographs" in text


@pytest.mark.parametrize(
    ("photos", "out", "says"),
    [
        ("none", "out", "none is no folder"),
        ("notes.txt", "out", "notes.txt is no folder"),
        (".", "notes.txt", "notes.txt is no folder"),
        (".", ".", "--out must be"),
    ],
)
def test_folders_that_will_not_do_are_told_before_anything_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str], photos: str, out: str, says: str) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(SystemExit) as ended:
        options_of(["--photos", str(tmp_path / photos), "--out", str(tmp_path / out)])
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


async def test_the_system_stays_up_on_free_ports_until_ctrl_c_and_nothing_is_left(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "rocket.jpg").write_bytes((PHOTOS / "rocket.jpg").read_bytes())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with stopped_in_the_end(Demo(tmp_path / "out", f"PHOTOS={photos}", arguments=f"--grpc-port {port} --http-port {port}")) as demo:
            url = (await demo.line(r"The system stays up: (http://\S+)", past=True, timeout=_TIMEOUT_S))[1]
            async with httpx.AsyncClient() as browser:
                stats = (await browser.get(f"{url}v1/stats")).json()
            assert str(port) not in url
            assert "completed" in str(stats)

            os.killpg(demo.pid, signal.SIGINT)  # as a terminal does
            await demo.ended(40)

    assert not _answers(url)


@asynccontextmanager
async def stopped_in_the_end(demo: Demo) -> AsyncIterator[Demo]:
    demo.spawn()
    try:
        yield demo
    finally:
        if demo.running:
            await asyncio.shield(demo.stop(40))
        demo.clean()


def _answers(url: str) -> bool:
    try:
        httpx.get(url, timeout=2)
    except httpx.TransportError:
        return False
    return True
