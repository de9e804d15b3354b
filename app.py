"""The app in the browser, `python app.py`; the page is in ccnet_lab/app/server.py."""

from ccnet_lab.ending import ending

from ccnet_lab.app.command_line import main

if __name__ == "__main__":
    ending(main)
