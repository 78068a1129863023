"""The names that `adapter` takes. What each of them is: `models/adapters.py`."""

ADAPTERS = (
    *("full", "lora", "rslora", "dora", "hira", "randlora", "shira", "lokr", "gralora", "loha", "vera", "oft", "boft"),
    *("fourierft", "waveft", "c3a", "miss", "hra", "delora", "psoft", "deft", "glora", "peanut", "tinylora"),
)
