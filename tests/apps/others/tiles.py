"""TiTiler, with a small raster of its own: every pixel of the world is 1."""

from pathlib import Path

import numpy
import rasterio
from fastapi import FastAPI
from rasterio.transform import from_bounds
from titiler.core.errors import DEFAULT_STATUS_CODES, add_exception_handlers
from titiler.core.factory import TilerFactory

RASTER = Path("/tmp/world.tif")  # noqa: S108 - in the container

app = FastAPI()
app.include_router(TilerFactory().router)
add_exception_handlers(app, DEFAULT_STATUS_CODES)

with rasterio.open(
    RASTER, "w", driver="GTiff", width=256, height=256, count=1, dtype="uint8", crs="EPSG:4326",
    transform=from_bounds(-180, -85, 180, 85, 256, 256),
) as raster:  # fmt: skip
    raster.write(numpy.ones((1, 256, 256), dtype="uint8"))
