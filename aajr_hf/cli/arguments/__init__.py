"""Arguments of the commands: parsed, checked, named alike."""
