"""Plain-torch twins of the kernels: same arguments, float64 inside, no thought of speed. They are the definition."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from branchwise_kernels.layout import PAGE, DevicePlan
from branchwise_kernels.lm_head_sample import DrawTensors, HeadWorkspace, PenaltyTensors
from branchwise_kernels.prm_head import PrmHeadWeights
from branchwise_kernels.step_state import ENDS_SOLUTION, ENDS_STEP, EOS, LENGTH, RUNNING, STOP, WAITS, StepState


def rms_norm(x: Tensor, weight: Tensor, out: Tensor, eps: float, add_one: bool) -> None:
    """See `rms_norm.rms_norm`."""
    out.copy_(_norm(x.double(), weight, eps, add_one))


def add_rms_norm(update: Tensor, residual: Tensor, weight: Tensor, out: Tensor, eps: float, add_one: bool) -> None:
    """See `rms_norm.add_rms_norm`."""
    residual.copy_(residual.double() + update.double())
    rms_norm(residual, weight, out, eps, add_one)


def _norm(x: Tensor, weight: Tensor, eps: float, add_one: bool) -> Tensor:
    scale = (x.square().mean(-1, keepdim=True) + eps).rsqrt()
    return x * scale * (weight.double() + 1 if add_one else weight.double())


def silu_mul(gate_up: Tensor, out: Tensor) -> None:
    """See `gated_activation.silu_mul`."""
    gate, up = gate_up.double().chunk(2, -1)
    out.copy_(torch.nn.functional.silu(gate) * up)


def gelu_mul(gate_up: Tensor, out: Tensor) -> None:
    """See `gated_activation.gelu_mul`."""
    gate, up = gate_up.double().chunk(2, -1)
    out.copy_(torch.nn.functional.gelu(gate, approximate="tanh") * up)


def rope_and_store(
    qkv: Tensor, positions: Tensor, slots: Tensor, cos: Tensor, sin: Tensor, query: Tensor, kv: Tensor, n_heads: int,
    n_kv_heads: int, head_dim: int, q_norm: Tensor | None, k_norm: Tensor | None, eps: float, add_one: bool,
    counts: Tensor,
) -> None:  # fmt: skip
    """See `rope_and_store.rope_and_store`."""
    rows = int(counts[0, 0])
    heads = qkv[:rows].double().view(rows, -1, head_dim)
    q, k, v = heads.split((n_heads, n_kv_heads, n_kv_heads), 1)
    if q_norm is not None and k_norm is not None:
        q, k = _norm(q, q_norm, eps, add_one), _norm(k, k_norm, eps, add_one)
    place = positions[:rows].long()
    c, s = cos[place].double()[:, None], sin[place].double()[:, None]

    def rotate(x: Tensor) -> Tensor:
        a, b = x.chunk(2, -1)
        return torch.cat((a * c - b * s, b * c + a * s), -1)

    query[:rows] = rotate(q).reshape(rows, -1).to(query.dtype)
    page, offset = slots[:rows].long() // PAGE, slots[:rows].long() % PAGE
    kv[page, :, 0, offset] = rotate(k).to(kv.dtype)
    kv[page, :, 1, offset] = v.to(kv.dtype)


def tree_attention(
    q: Tensor, kv: Tensor, plan: DevicePlan, partial_out: Tensor, partial_max: Tensor, partial_sum: Tensor,
    n_heads: int, scale: float, window: int = 0, softcap: float = 0.0, run: int = 0,
) -> None:  # fmt: skip
    """See `tree_attention.tree_attention`."""
    head_dim, group = kv.shape[-1], n_heads // kv.shape[1]
    n_small, n_large = plan.counts[run, 1:3].tolist()
    items = plan.items[run, [*range(n_small), *range(plan.max_small, plan.max_small + n_large)]].tolist()
    for row_begin, row_count, page_begin, key_count, key_position, partial, causal, _ in items:
        keys = torch.arange(key_count, device=kv.device)
        page = plan.pages.long()[page_begin + keys // PAGE]
        k, v = (kv[page, :, i, keys % PAGE].double().repeat_interleave(group, 1) for i in (0, 1))
        for r in range(row_count):
            position = int(plan.positions[row_begin + r])
            seen = torch.ones_like(keys, dtype=torch.bool)
            if causal:
                seen &= key_position + keys <= position
            if window:
                seen &= key_position + keys > position - window
            query = q[row_begin + r].double().view(n_heads, head_dim)
            score = torch.einsum("hd,nhd->hn", query, k) * scale
            if softcap:
                score = softcap * torch.tanh(score / softcap)
            score = torch.where(seen, score * math.log2(math.e), -math.inf)
            top = score.amax(1)
            weight = torch.exp2(score - torch.where(top.isinf(), 0.0, top)[:, None])
            partial_max[partial + r], partial_sum[partial + r] = top, weight.sum(1)
            partial_out[partial + r] = torch.einsum("hn,nhd->hd", weight, torch.where(seen[:, None, None], v, 0.0))


def merge_states(
    partial_out: Tensor, partial_max: Tensor, partial_sum: Tensor, plan: DevicePlan, out: Tensor, run: int = 0,
) -> None:  # fmt: skip
    """See `merge_states.merge_states`."""
    begin = plan.row_partial_begin.tolist()
    for row in range(*plan.counts[run, 3:5].tolist()):
        parts = plan.row_partials.long()[begin[row] : begin[row + 1]]
        if not len(parts) or bool(partial_max[parts].isneginf().all()):
            out[row] = 0
            continue
        top = partial_max[parts].double().amax(0)
        weight = torch.exp2(partial_max[parts].double() - torch.where(top.isinf(), 0.0, top))
        total = (weight * partial_sum[parts].double()).sum(0)
        value = (weight[..., None] * partial_out[parts].double()).sum(0)
        out[row] = (value / torch.where(total == 0, 1.0, total)[:, None]).reshape(-1).to(out.dtype)


def lm_head_sample(
    hidden: Tensor, weight: Tensor, draws: DrawTensors, softcap: float, workspace: HeadWorkspace, tokens: Tensor,
    logprobs: Tensor, filtered: bool,
) -> None:  # fmt: skip
    """See `lm_head_sample.lm_head_sample`; it sorts, and keeps ties in order of words."""
    logits = hidden.double() @ weight.double().T
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    words = torch.arange(len(weight), device=weight.device)
    for row in range(len(hidden)):
        temperature, allowed = float(draws.temperature[row]), torch.ones_like(words, dtype=torch.bool)
        score = logits[row] if draws.penalties is None else _penalised(logits[row], draws.penalties, row)
        if temperature > 0:
            z = score / temperature
            if filtered:
                allowed = _allowed(z, float(draws.top_p[row]), int(draws.top_k[row]), float(draws.min_p[row]))
            keys = (int(draws.seed[row]), int(draws.lineage[row]), int(draws.position[row]))
            score = torch.where(allowed, z + gumbel(*keys, words), -math.inf)
        token = int(score.argmax())
        tokens[row] = token
        logprobs[row] = logits[row, token] - logits[row].logsumexp(0)
        if draws.sure is not None:
            draws.sure.found[int(draws.sure.iteration), row] = _sureness(logits[row], int(draws.sure.top[row]))
        if draws.penalties is not None:
            draws.penalties.seen[row, token] = max(int(draws.penalties.seen[row, token]), 1) + 1


def _sureness(logits: Tensor, top: int) -> Tensor:
    z = logits[~logits.isneginf()]
    total = z.logsumexp(0)
    pair = torch.stack([total - z.topk(min(top, len(z))).values.mean(), total - z.mean() - math.log(len(z))])
    return pair if top else torch.full_like(pair, math.nan)


def _penalised(logits: Tensor, penalties: PenaltyTensors, row: int) -> Tensor:
    repetition, seen = float(penalties.repetition[row]), penalties.seen[row]
    left = torch.where(logits > 0, logits / repetition, logits * repetition)
    left -= float(penalties.frequency[row]) * (seen - 1) + float(penalties.presence[row]) * (seen > 1)
    return torch.where(seen < 0, -1e30, torch.where(seen > 0, left, logits))


def _allowed(z: Tensor, top_p: float, top_k: int, min_p: float) -> Tensor:
    order = torch.sort(z, descending=True, stable=True).indices
    weight = (z - z.max()).exp()
    inside = torch.ones_like(z, dtype=torch.bool)
    if 0 < top_k < len(z):
        inside[order[top_k:]] = False
    if top_p < 1:
        kept = order[inside[order]]
        mass = weight[kept].cumsum(0)
        inside[kept[mass - weight[kept] >= top_p * mass[-1]]] = False
    return inside & (weight >= min_p)


def gumbel(seed: int, lineage: int, position: int, words: Tensor) -> Tensor:
    """-log(-log u), u from Philox4x32-10; words: [n] int64 -> [n] fp64. See `philox.py`."""
    low = 0xFFFFFFFF
    group = words // 4
    c = [torch.full_like(group, v) for v in (lineage & low, lineage >> 32 & low, position & low)] + [group]
    key = [seed & low, seed >> 32 & low]
    for _ in range(10):
        (high0, low0), (high1, low1) = _wide(0xD2511F53, c[0]), _wide(0xCD9E8D57, c[2])
        c = [high1 ^ c[1] ^ key[0], low1, high0 ^ c[3] ^ key[1], low0]
        key = [(key[0] + 0x9E3779B9) & low, (key[1] + 0xBB67AE85) & low]
    bits = torch.stack(c, 1).gather(1, (words % 4)[:, None])[:, 0]
    u = ((bits >> 9) * 2 + 1).double() * 2.0**-24
    return -(-u.log()).log()


def _wide(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a * b, both below 2^32, without leaving int64."""
    upper = a * (b >> 16)  # below 2^48
    lower = a * (b & 0xFFFF)
    total = (upper & 0xFFFF) * 65536 + lower
    return (upper >> 16) + (total >> 32), total & 0xFFFFFFFF


def step_state(
    tokens: Tensor, logprobs: Tensor, state: StepState, functions: Tensor, transitions: Tensor, pages: Tensor,
    page: int = 64,
) -> None:  # fmt: skip
    """See `step_state.step_state`."""
    now = int(state.iteration)
    for row in range(len(state.token)):
        running = int(state.finish[row]) == RUNNING
        token = int(tokens[row])
        state.ring_tokens[now, row] = token if running else -1
        state.ring_logprobs[now, row] = logprobs[row] if running else 0.0
        if not running:
            continue
        after = [int(transitions[functions[token], each]) for each in state.automata[:, row]]
        position, generated = int(state.positions[row]) + 1, int(state.generated[row]) + 1
        waits = any(each >= WAITS for each in after) and 2 * generated >= state.max_step[row]
        finish = RUNNING
        if ENDS_SOLUTION in after:
            finish = EOS
        elif position >= state.last_position[row]:
            finish = LENGTH
        elif ENDS_STEP in after or waits:
            finish = STOP
        elif generated >= state.max_step[row]:
            finish = LENGTH
        state.finish[row], state.generated[row] = finish, generated
        state.automata[:, row] = torch.tensor([max(each, 0) % WAITS for each in after])
        if finish == RUNNING:
            offset = position - int(state.node_start[row])
            slot = int(pages[int(state.page_begin[row]) + offset // page]) * page + offset % page
            state.token[row], state.positions[row], state.slots[row] = token, position, slot
    state.iteration.add_(1)


def prm_head(hidden: Tensor, weights: PrmHeadWeights, probability: Tensor) -> None:
    """See `prm_head.prm_head`."""
    h = hidden.double()
    if weights.inner is not None and weights.inner_bias is not None:
        h = (h @ weights.inner.double().T + weights.inner_bias.double()).relu()
    probability.copy_(torch.sigmoid(h @ weights.direction.double() + weights.bias.double()))
