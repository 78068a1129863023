"""Tool calls: asked for, parsed, judged, attacked."""
