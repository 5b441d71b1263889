"""The mark and the icons: strokes on a 24-unit grid, drawn for this app."""

from __future__ import annotations

MARK = (
    '<svg viewBox="0 0 32 32" fill="none" stroke="currentColor" stroke-width="2.4" stroke-linecap="round" aria-hidden="true">'
    '<path d="M16 28v-7"/><path d="M16 21c0-6-9-4-9-12"/><path d="M16 21V7"/><path d="M16 21c0-6 9-4 9-12"/>'
    '<g fill="currentColor" stroke="none"><circle cx="7" cy="7" r="2.6"/><circle cx="16" cy="5" r="2.6"/>'
    '<circle cx="25" cy="7" r="2.6"/></g></svg>'
)
"""Three heads on one body: adapters over a base."""

_PATHS = {
    "chat": "M4 6.5A2.5 2.5 0 0 1 6.5 4h11A2.5 2.5 0 0 1 20 6.5v7a2.5 2.5 0 0 1-2.5 2.5H11l-4.5 4v-4A2.5 2.5 0 0 1 4 13.5z",
    "teach": "M12 6.5C10 5 7 4.5 4 5v13c3-.5 6 0 8 1.5 2-1.5 5-2 8-1.5V5c-3-.5-6 0-8 1.5zM12 6.5v13",
    "memory": "M12 7.5V12l3 2M4.6 9.5A8 8 0 1 1 4 12M4 5.5v4h4",
    "forgetting": "M4 4.5h16v15H4zM4 9.5h16M4 14.5h16M9.3 4.5v15M14.7 4.5v15",
    "runs": "M4 5v14h16M7.5 8c2 6 5.5 8 12 8.5",
    "models": "M12 3.5 20 8l-8 4.5L4 8zM4 12l8 4.5 8-4.5M4 16l8 4.5 8-4.5",
    "settings": "M4 7h9M17 7h3M4 17h3M11 17h9M13 4.8v4.4h4V4.8zM7 14.8v4.4h4v-4.4z",
    "plus": "M12 5v14M5 12h14",
    "search": "M10.5 4.5a6 6 0 1 1 0 12 6 6 0 0 1 0-12M15 15l4.5 4.5",
    "send": "M12 19V5M6 11l6-6 6 6",
    "stop": "M7 7h10v10H7z",
    "edit": "M5 19l1-4L16 5l3 3L9 18zM14 7l3 3",
    "again": "M19 12a7 7 0 1 1-2.3-5.2M17.5 3v4.3h-4.3",
    "copy": "M9 9h10v10H9zM5 15V5h10",
    "left": "M14 6l-6 6 6 6",
    "right": "M10 6l6 6-6 6",
    "down": "M6 9.5l6 6 6-6",
    "close": "M6 6l12 12M18 6L6 18",
    "menu": "M4 7h16M4 12h16M4 17h16",
    "more": "M5.5 11.3a.7.7 0 1 0 .01 0M12 11.3a.7.7 0 1 0 .01 0M18.5 11.3a.7.7 0 1 0 .01 0",
    "export": "M12 4v11M7.5 11l4.5 4.5 4.5-4.5M5 19.5h14",
    "trash": "M5 7h14M10 7V4.5h4V7M7 7l1 12.5h8L17 7",
    "undo": "M8.5 5L4.5 9l4 4M5 9h9a5.2 5.2 0 0 1 0 10.4h-4",
    "share": "M8 11l8-5M8 13l8 5M6 9.5a2.5 2.5 0 1 1-.01 0M18 3a2 2 0 1 1-.01 0M18 17a2 2 0 1 1-.01 0",
    "up": "M7 11v8.5H4V11zM7 11l4-7.5c2 0 2.5 1.5 2 3.5l-.5 2.5H18a2 2 0 0 1 2 2.3l-1 5.7a2 2 0 0 1-2 1.5H7",
    "thumb-down": "M7 13V4.5H4V13zM7 13l4 7.5c2 0 2.5-1.5 2-3.5l-.5-2.5H18a2 2 0 0 0 2-2.3l-1-5.7a2 2 0 0 0-2-1.5H7",
    "theme": "M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16",
    "tool": "M5 4h14v16H5zM8.5 8h7M8.5 12.5h.01M12 12.5h.01M15.5 12.5h.01M8.5 16h.01M12 16h.01M15.5 16h.01",
    "key": "M8 11.5a4 4 0 1 0 0 .01M12 11.5h8.5v3.5M16.5 11.5v2.5",
    "check": "M5 12.5l4.5 4.5L19 7.5",
    "info": "M12 4a8 8 0 1 1 0 16 8 8 0 0 1 0-16M12 11v5M12 8h.01",
}


def icon(name: str) -> str:
    """An icon as inline SVG. It says nothing to a screen reader: the button around it has a label."""
    return (
        '<svg class="icon" viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="1.7" '
        f'stroke-linecap="round" stroke-linejoin="round" aria-hidden="true"><path d="{_PATHS[name]}"/></svg>'
    )


def favicon() -> str:
    """The mark in its own colour, for the browser's tab."""
    return MARK.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" color="#0c6a5b" ', 1)
