"""The console's two looks: a library by lamplight, and its pages by day.

Beyond Textual's own colours each names one per kind of prompt segment and per tier, so that
other themes (any of Textual's can be chosen) fall back to the night's.
"""

from __future__ import annotations

from textual.theme import Theme

SEGMENT_KINDS = (
    "persona", "direction", "lore", "memory", "history", "player",
    "scene", "actions", "state", "events", "passage", "template",
)  # fmt: skip

_NIGHT = {
    "seg-persona": "#c4a7e7",
    "seg-direction": "#f0b35a",
    "seg-lore": "#8fc98a",
    "seg-memory": "#7fb4ea",
    "seg-history": "#b0a99c",
    "seg-player": "#6fd3d0",
    "seg-scene": "#dd9c8c",
    "seg-actions": "#e58fb8",
    "seg-state": "#93b5b0",
    "seg-events": "#e0c06c",
    "seg-passage": "#8fc98a",
    "seg-template": "#6a6659",
    "tier-director": "#f0b35a",
    "tier-npc": "#7fb4ea",
    "tier-book": "#8fc98a",
    "rule": "#3a3a47",
    "muted": "#938d80",
    "faint": "#6a665d",
}

_DAY = {
    "seg-persona": "#6a3fa0",
    "seg-direction": "#9a5b00",
    "seg-lore": "#2f7031",
    "seg-memory": "#1d5fa8",
    "seg-history": "#625a4c",
    "seg-player": "#00716e",
    "seg-scene": "#9c4331",
    "seg-actions": "#a1286a",
    "seg-state": "#3a6963",
    "seg-events": "#7c6100",
    "seg-passage": "#2f7031",
    "seg-template": "#9b9280",
    "tier-director": "#9a5b00",
    "tier-npc": "#1d5fa8",
    "tier-book": "#2f7031",
    "rule": "#cfc6b2",
    "muted": "#6e6656",
    "faint": "#9b9280",
}

LAMPLIGHT = Theme(
    name="lamplight",
    primary="#f0b35a",
    secondary="#7fb4ea",
    accent="#6fd3d0",
    foreground="#e6dfd0",
    background="#14151c",
    surface="#1a1c25",
    panel="#242733",
    success="#8fc98a",
    warning="#f0a350",
    error="#ef7676",
    dark=True,
    variables={
        **_NIGHT,
        "footer-background": "#1a1c25",
        "footer-key-foreground": "#f0b35a",
        "block-cursor-background": "#f0b35a",
        "block-cursor-foreground": "#14151c",
        "input-selection-background": "#7fb4ea 35%",
        "border": "#4a4a5a",
        "scrollbar": "#3a3d4d",
        "scrollbar-background": "#1a1c25",
        "scrollbar-hover": "#565a70",
        "scrollbar-active": "#f0b35a",
    },
)

DAYLIGHT = Theme(
    name="daylight",
    primary="#9a5b00",
    secondary="#1d5fa8",
    accent="#00716e",
    foreground="#2b2620",
    background="#faf6ec",
    surface="#f2ecdd",
    panel="#e6dec9",
    success="#2f7031",
    warning="#a35a00",
    error="#b3261e",
    dark=False,
    variables={
        **_DAY,
        "footer-background": "#e6dec9",
        "footer-key-foreground": "#9a5b00",
        "block-cursor-background": "#9a5b00",
        "block-cursor-foreground": "#faf6ec",
        "border": "#b8ad94",
        "scrollbar": "#cfc6b2",
        "scrollbar-background": "#f2ecdd",
        "scrollbar-hover": "#b8ad94",
        "scrollbar-active": "#9a5b00",
    },
)

DEFAULT_VARIABLES = _NIGHT
