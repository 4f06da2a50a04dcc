"""What puts a FastAPI application into production: `server` inside the image, `cli` outside of it."""
