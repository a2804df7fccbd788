"""guestmemfs-fuse: guest RAM as files that outlive the software around them."""

__version__ = "0.1.0"
