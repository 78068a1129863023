"""A causal language model as the policy of the objective: from a perturbation of its embeddings to action logits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.modeling_outputs import ModelOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ..data.batch import AgentBatch
from .forward_mode import forward_mode_checkpointing
from .layers import at_input_of
from .prefix import Prefix, cached_prefix

# Parts of the attribute names under which layers store a rate of dropout or noise.
_RANDOM = ("drop", "jitter", "noise")


class AgentPolicy:
    """
    The map `delta (B, L, d) -> logits at the action positions (B, A, V)` of one batch. The logits are in at least
    fp32, and zero on the padding of the action positions.

    The model is called with `input_ids`, so that embeddings keep their gradients and wrappers their forward. A forward
    hook on the embedding module adds delta to the input of the first layer, and a pre-hook on the LM head keeps only
    the action positions, before any logits are computed.

    Args:
        model: The model, possibly in a wrapper.
        batch: The micro-batch.
        dropout_seed: If set, every call draws its dropout masks from this seed, so that all calls evaluate the same
            function. All calls then also use the attention kernel of the jvp, because each kernel draws its masks
            differently.
        prefix: If set, the model sees only the tokens after it ([`with_cached_prefix`]).
        layer: Where delta is added: 0 at the embeddings, n at the input of decoder layer n (counted from 0).
        model_kwargs: Further keyword arguments of the model's forward.
    """

    def __init__(
        self,
        model: nn.Module,
        batch: AgentBatch,
        dropout_seed: int | None = None,
        *,
        prefix: Prefix | None = None,
        layer: int = 0,
        **model_kwargs,
    ):
        self.model = model
        self.batch = batch
        self.dropout_seed = dropout_seed
        self.prefix = prefix
        self.layer = layer
        self.model_kwargs = model_kwargs
        inner = getattr(model, "module", model)
        self._embedding = inner.get_input_embeddings()
        self._lm_head = inner.get_output_embeddings()

    def select(self, rows: Tensor) -> AgentPolicy:
        """The same policy on some rows of the batch."""
        prefix = None if self.prefix is None else self.prefix.select(rows)
        kept = {"prefix": prefix, "layer": self.layer} | self.model_kwargs
        return AgentPolicy(self.model, self.batch.select(rows), self.dropout_seed, **kept)

    def with_cached_prefix(self) -> AgentPolicy:
        """
        The same policy for as long as no weight changes. Where the model allows it, all calls share one pass over the
        tokens before the first perturbable one. No gradient flows through this pass to the weights.
        """
        if self.dropout_seed is not None:  # the masks would differ
            return self
        prefix = cached_prefix(self.model, self.batch)
        return AgentPolicy(self.model, self.batch, prefix=prefix, layer=self.layer, **self.model_kwargs)

    @torch.no_grad()
    def embeddings(self) -> Tensor:
        """
        The unperturbed state `s`, shape (B, L, d), detached, in at least fp32; gathered if the weights are sharded. With a
        layer, this takes a forward pass.
        """
        if self.layer > 0:
            return self._states_of_layer()
        embedding = _WithoutHooks(self._embedding)
        weights = {name: p.full_tensor() for name, p in embedding.named_parameters() if isinstance(p, DTensor)}
        with _gathered_by_deepspeed(embedding):
            states = torch.func.functional_call(embedding, weights, (self.batch.input_ids,))
        return states.to(torch.promote_types(states.dtype, torch.float32))

    def _states_of_layer(self) -> Tensor:
        seen = []

        def read(hidden: Tensor) -> Tensor:
            seen.append(hidden.detach())
            return hidden

        with at_input_of(self.model, self.layer, read), self._randomness():
            self.model(**self.batch.model_inputs() | {"use_cache": False}, **self.model_kwargs)
        states = self.batch.by_document(seen[0])
        return states.to(torch.promote_types(states.dtype, torch.float32))

    def __call__(self, delta: Tensor | None = None) -> Tensor:
        return self.with_outputs(delta)[0]

    def with_outputs(self, delta: Tensor | None = None) -> tuple[Tensor, ModelOutput]:
        """Return the logits and all outputs of the model."""

        known = 0 if self.prefix is None else self.prefix.length
        inputs = self.batch.model_inputs() | {"use_cache": False}
        if self.prefix is not None:
            inputs |= self.prefix.arguments(self.batch)

        def shifted(states: Tensor) -> Tensor:
            return states + self.batch.as_model_sees(delta)[:, known:].to(states.dtype)

        def perturb(module, args, output):
            return output if delta is None or self.layer > 0 else shifted(output)

        def keep_actions(module, args):
            return (self.batch.at_actions(args[0], known), *args[1:])

        handles = [
            self._embedding.register_forward_hook(perturb),
            self._lm_head.register_forward_pre_hook(keep_actions),
        ]
        latent = contextlib.nullcontext()
        if self.layer > 0 and delta is not None:
            latent = at_input_of(self.model, self.layer, shifted)
        try:
            with latent, self._randomness():
                outputs = self.model(**inputs, **self.model_kwargs)
        finally:
            for handle in handles:
                handle.remove()
        logits = outputs.logits
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return logits.masked_fill(~self.batch.action_mask[..., None], 0), outputs

    @contextlib.contextmanager
    def _randomness(self) -> Iterator[None]:
        if self.dropout_seed is None:
            yield
            return
        with fixed_seed(self.batch.input_ids.device, self.dropout_seed):
            # Layers that are recomputed later must use the same kernel.
            with sdpa_kernel(SDPBackend.MATH), forward_mode_checkpointing(self.model):
                yield


def check_text_only(model: nn.Module) -> None:
    """
    Refuse a language model that is combined with encoders of images or sound.

    Raises:
        ValueError: for such a model; the message says what to load instead.
    """
    text = model.config.get_text_config()
    if text is not model.config:
        alone = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(text.model_type)
        raise ValueError(
            f"The model reads more than text ({model.config.model_type}), but AAJR perturbs only text embeddings: set "
            f"`model_name_or_path` to a text-only model{f', such as a {alone}' if alone else ''}."
        )


@contextlib.contextmanager
def fixed_seed(device: torch.device, seed: int) -> Iterator[None]:
    """
    Context in which random numbers of the CPU and the device depend only on the seed; afterwards, both generators
    continue as before.
    """
    devices = [] if device.type == "cpu" else [device]
    # `torch.manual_seed` seeds every device, too, and formats the stack for those that are not in use yet.
    seed_all = torch.manual_seed if devices else torch.default_generator.manual_seed
    with torch.random.fork_rng(devices, device_type=device.type if devices else "cuda"):
        seed_all(seed)
        yield


@contextlib.contextmanager
def _gathered_by_deepspeed(module: nn.Module) -> Iterator[None]:
    """Context in which parameters that ZeRO-3 has split are gathered."""
    split = [parameter for parameter in module.parameters() if hasattr(parameter, "ds_id")]
    if not split:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(split):
        yield


class _WithoutHooks(nn.Module):
    """A module without its own hooks, because FSDP2's hooks expect to run inside the whole model's forward."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module

    def forward(self, *args):
        return self.module.forward(*args)


def embedding_norm(state: Tensor, batch: AgentBatch) -> Tensor:
    """
    Mean l2 norm of each example's perturbable embeddings, (B,): the unit of a relative epsilon; 0 where there are none.
    """
    norms = state.norm(dim=-1).masked_fill(~batch.perturbable, 0)
    return norms.sum(dim=1) / batch.perturbable.sum(dim=1).clamp_min(1)


def uses_dropout(model: nn.Module) -> bool:
    """
    Whether a forward pass in training mode is random: the model has a dropout module, or a layer with its own rate of
    dropout or noise, possibly one rate per adapter.
    """
    return any(_is_random(module) for module in model.modules())


def _is_random(module: nn.Module) -> bool:
    rates = {name: value for name, value in vars(module).items() if any(word in name for word in _RANDOM)}
    if "Dropout" in type(module).__name__:  # also BOFT's dropout, which is not a class of PyTorch
        rates["p"] = getattr(module, "p", 0.0)
    values = [v for rate in rates.values() for v in (rate.values() if isinstance(rate, dict) else [rate])]
    return any(isinstance(value, float) and value > 0 for value in values)


@contextlib.contextmanager
def frozen_parameters(model: nn.Module) -> Iterator[None]:
    """
    Context in which no parameter requires a gradient, so that the ascent builds no graph for weights and cannot change
    their `.grad`. Sharded parameters still require gradients, because a forward pass puts other tensors in their
    place.
    """
    trainable = [p for p in model.parameters() if p.requires_grad and not isinstance(p, DTensor)]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
