"""Valid names for `adapter`, which `models/adapters.py` defines."""

ADAPTERS = (
    *("full", "lora", "rslora", "dora", "hira", "randlora", "shira", "lokr", "gralora", "loha", "vera", "oft", "boft"),
    *("fourierft", "waveft", "c3a", "miss", "hra", "delora", "psoft", "deft", "glora", "peanut", "tinylora"),
)
