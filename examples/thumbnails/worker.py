"""The worker of the thumbnail example: `jobwire worker examples.thumbnails.worker:worker`."""

from dataclasses import dataclass
from pathlib import Path

from jobwire_worker import Job, Permanent, Worker

from examples.thumbnails.thumbnails import SIZES, NotAPicture, make_thumbnails

QUEUE = "thumbnails"

# One job at a time per process: the work is Pillow's, and it fills a core.
worker = Worker(queues=[QUEUE], concurrency=1)


@dataclass(frozen=True)
class Photo:
    """The payload of a job."""

    path: str
    """The photograph."""
    out: str
    """The folder that the thumbnails go to."""


@worker.handler("thumbnail")
def thumbnail(job: Job[Photo]) -> dict[str, object]:
    """Make all sizes of one photograph, and say after each how far it is."""
    photo = job.payload
    files: list[str] = []
    try:
        for path in make_thumbnails(Path(photo.path), Path(photo.out)):
            files.append(path.name)
            job.progress(100 * len(files) / len(SIZES), path.stem + " px")
            job.check_cancelled()
    except FileNotFoundError as error:
        raise Permanent(f"{photo.path} is not there") from error
    except NotAPicture as error:
        # Trying again would not make a picture of it.
        raise Permanent(str(error)) from error
    return {"folder": str(Path(photo.out) / Path(photo.path).name), "files": files}
