"""The application. Replace it with yours."""
