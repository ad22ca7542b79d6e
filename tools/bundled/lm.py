"""Training the chat language model within a given time."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WIDTH, LAYERS, HEADS, HIDDEN, POSITIONS = 256, 6, 4, 640, 1024


def build_config(tokenizer: PreTrainedTokenizerFast, layers: int = LAYERS, **extra: Any) -> LlamaConfig:
    """The architecture that all bundled models share."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **extra,
    )


def build_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> LlamaForCausalLM:
    """A language model with fresh weights; the outputs of residual branches start at zero."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(build_config(tokenizer))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
    return model


def optimizers(
    model: nn.Module, muon_rate: float, adam_rate: float, decay: float = 0.02
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings, norms and heads."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and ".layers." in n]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    muon = torch.optim.Muon(matrices, lr=muon_rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(rest, lr=adam_rate, betas=(0.9, 0.98), weight_decay=0.0)
    return [muon, adam]


def set_rate(steppers: list[torch.optim.Optimizer], factor: float) -> None:
    """Scale the learning rates of all optimizers by a factor of their first values."""
    for stepper in steppers:
        for group in stepper.param_groups:
            group.setdefault("first_lr", group["lr"])
            group["lr"] = group["first_lr"] * factor


def rate(progress: float, step: int, warmup: int = 100, flat: float = 0.35) -> float:
    """Warm-up by step, then constant, then a cosine to almost zero when the time is used up."""
    if progress < flat:
        return min(1.0, (step + 1) / warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - flat) / (1 - flat))))


def token_loss(model: nn.Module, rows: Tensor, pad: int) -> Tensor:
    """Mean cross-entropy of all tokens of the rows that are not padding."""
    logits = model(input_ids=rows[:, :-1], use_cache=False).logits
    return nn.functional.cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten(), ignore_index=pad)


def sharpen(path: Path, tokenizer: PreTrainedTokenizerFast, held: dict[str, np.ndarray], temperature: float) -> dict:
    """Bake a temperature into a saved model, so that sampling at temperature 1 reads as sampling at that one did.

    The final norm's weight is divided by the temperature, which divides all logits by it. Returns held-out losses
    before and after."""
    model = LlamaForCausalLM.from_pretrained(path, dtype=torch.float32)
    if hasattr(model.config, "baked_temperature"):
        raise ValueError(f"the model in {path} has a baked temperature already")
    pad = tokenizer.pad_token_id
    report = {"as trained": {kind: held_loss(model, rows, pad, 16) for kind, rows in held.items()}}
    with torch.no_grad():
        model.model.norm.weight.div_(temperature)
    model.config.baked_temperature = temperature
    report["sharpened"] = {kind: held_loss(model, rows, pad, 16) for kind, rows in held.items()}
    save(model, tokenizer, path)
    return report


@torch.no_grad()
def held_loss(model: nn.Module, rows: np.ndarray, pad: int, batch: int) -> float:
    """Mean cross-entropy of held-out rows."""
    total, count = 0.0, 0
    for start in range(0, len(rows) - batch + 1, batch):
        part = torch.from_numpy(rows[start : start + batch].astype(np.int64))
        total += float(token_loss(model, part, pad))
        count += 1
    return total / max(count, 1)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the model in bfloat16, its generation settings and the tokenizer."""
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(torch.bfloat16)
    copy.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
    )
    out.mkdir(parents=True, exist_ok=True)
    copy.save_pretrained(out)
    tokenizer.save_pretrained(out)


def train(
    rows: np.ndarray,
    held: dict[str, np.ndarray],
    tokenizer: PreTrainedTokenizerFast,
    out: Path,
    minutes: float,
    seed: int,
    half: bool = False,
    batch: int = 10,
    save_every: float = 10.0,
) -> dict[str, float]:
    """Train for a number of minutes of wall-clock time; returns held-out losses by kind.

    `half` turns on bfloat16 autocast, which pays on processors with matrix units."""
    pad = tokenizer.pad_token_id
    model = build_model(tokenizer, seed)
    print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(rows):,} rows of {rows.shape[1]}", flush=True
    )
    steppers = optimizers(model, muon_rate=3e-3, adam_rate=3e-3)
    compiled = torch.compile(model)
    order = np.random.default_rng(seed).permutation(len(rows))
    start, saved, step, seen, at = time.monotonic(), 3.0 - save_every, 0, 0, 0
    while (elapsed := (time.monotonic() - start) / 60) < minutes:
        if at + batch > len(order):
            order, at = np.random.default_rng(seed + step).permutation(len(rows)), 0
        part = torch.from_numpy(rows[order[at : at + batch]].astype(np.int64))
        at += batch
        set_rate(steppers, rate(elapsed / minutes, step))
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = token_loss(compiled, part, pad)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad()
        step += 1
        seen += part.numel()
        if step % 50 == 0:
            speed = seen / (time.monotonic() - start)
            print(
                f"step {step} loss {loss.item():.3f} {speed:,.0f} tokens/s {minutes - elapsed:.1f} min left", flush=True
            )
        if elapsed - saved > save_every:
            saved = elapsed
            save(model, tokenizer, out)
            print(
                "saved",
                {kind: round(held_loss(model, part[:batch], pad, batch), 3) for kind, part in held.items()},
                flush=True,
            )
    save(model, tokenizer, out)
    report = {kind: held_loss(model, part, pad, 16) for kind, part in held.items()}
    print("final", report, f"{seen:,} tokens", flush=True)
    return report
