"""Files that clients upload."""

import hashlib
import logging

from fastapi import APIRouter, UploadFile

router = APIRouter()
logger = logging.getLogger(__name__)


@router.post("")
def digest_of(file: UploadFile) -> dict[str, int | str]:
    """Return the size and the SHA-256 of an upload. A `def` route: it runs in a thread, because it computes."""
    digest = hashlib.file_digest(file.file, "sha256").hexdigest()
    logger.info("%s has %s bytes", file.filename, file.size)
    return {"size": file.size or 0, "sha256": digest}
