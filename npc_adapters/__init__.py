"""LoRA adapters: what one is, where it lives, how it is trained, judged, blended."""
