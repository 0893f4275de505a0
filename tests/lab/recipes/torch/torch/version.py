"""Written anew when an image is built; these values are for reading only."""

__version__ = "0.0.0"
cuda = "12.8"
architectures = "75,80,86,90"
