"""What several tests share: tiny models, agents, templates, servers, pages."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
