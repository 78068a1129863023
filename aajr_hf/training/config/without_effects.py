"""Settings of a trainer that only computes: it writes, uploads, evaluates and reports nothing, and adds no adapter."""

WITHOUT_EFFECTS = {
    "push_to_hub": False,
    "eval_strategy": "no",
    "eval_on_start": False,
    "save_strategy": "no",
    "load_best_model_at_end": False,  # it would need the two strategies
    "report_to": "none",
    "disable_tqdm": True,
    "adapter": "full",
    "adapter_options": {},
}
