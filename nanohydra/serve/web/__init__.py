"""The web app: pages in Python (NiceGUI), mounted beside the API. Everything it loads comes from this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastapi import FastAPI

    from nanohydra.serve.services import Services


def mount(app: FastAPI, services: Services) -> None:
    """Offers the web app at `/`; call it after the API's routes are there. Needs nicegui."""
    from nanohydra.serve.web.app import mount as mount_app

    mount_app(app, services)
