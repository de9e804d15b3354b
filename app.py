"""The app in the browser, `python app.py`; the page is in ccnet_lab/app/server.py."""

from ccnet_lab.ending import ending

from ccnet_lab.app.server import build, main

__all__ = ["build", "main"]

if __name__ == "__main__":
    ending(main)
