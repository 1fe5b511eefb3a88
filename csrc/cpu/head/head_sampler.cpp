// Merges chunks into rows, tightens the candidates' bounds, and makes the exact choice at the end.
#include "cpu/head/head_sampler.h"

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <span>

#include "cpu/head/select.h"
#include "cpu/isa/isa.h"
#include "cpu/products/dense_weight.h"

namespace branchwise {
namespace {

constexpr float kNegInf = -std::numeric_limits<float>::infinity();
constexpr double kBoundSlack = 0.01;  // more than the rounding of a bound, in logits
constexpr size_t kMinPrune = 4096;    // candidates: fewer are not worth a selection
constexpr size_t kTopSlack = 64;  // logits beyond the largest k that are kept before a selection

HeadRow head_row(const DrawSpec& spec) {
  HeadRow row{};
  row.seed = spec.seed, row.lineage = spec.lineage;
  row.position = static_cast<uint32_t>(spec.position);
  row.floor = row.top_floor = kNegInf;
  row.inv_temperature = spec.temperature > 0 ? 1.0f / spec.temperature : 1.0f;
  const bool filtered = spec.top_k > 0 || spec.top_p < 1 || spec.min_p > 0;
  row.draw = !(spec.temperature > 0) ? Draw::greedy : filtered ? Draw::candidates : Draw::gumbel;
  row.wants_mass = row.draw == Draw::candidates && spec.top_k <= 0 && spec.top_p < 1;
  return row;
}

void find_keys(const std::vector<float>& logits, float scale, std::vector<uint32_t>& keys) {
  keys.resize(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) keys[i] = order_key(logits[i] * scale);
}

// Keeps the elements of parallel arrays for which wanted(i) holds, in order. No branch: whether a
// candidate stays is a coin toss.
template <typename Wanted, typename... Arrays>
void keep(Wanted&& wanted, std::vector<float>& first, Arrays&... rest) {
  size_t kept = 0;
  for (size_t i = 0; i < first.size(); ++i) {
    const bool stays = wanted(i);
    first[kept] = first[i];
    ((rest[kept] = rest[i]), ...);
    kept += stays;
  }
  first.resize(kept);
  (rest.resize(kept), ...);
}

// The seen words among [first, first + n).
std::span<SeenWord> seen_within(std::vector<SeenWord>& seen, int64_t first, int64_t n) {
  const auto before = [](const SeenWord& a, int64_t word) { return a.word < word; };
  const auto begin = std::lower_bound(seen.begin(), seen.end(), first, before);
  return {begin, std::lower_bound(begin, seen.end(), first + n, before)};
}

}  // namespace

void HeadSampler::Sum::add(float other_max, float other_sum) {
  if (other_max > max) {
    sum *= std::exp(max - other_max);
    max = other_max;
  }
  sum += other_max == kNegInf ? other_sum : other_sum * std::exp(other_max - max);
}

HeadSampler::HeadSampler(int64_t max_rows, int64_t vocab_size)
    : max_rows_(max_rows), vocab_size_(vocab_size) {
  CHECK_ARG(max_rows > 0, "max_rows is ", max_rows, ", expected at least 1");
  CHECK_ARG(vocab_size > 0 && vocab_size < std::numeric_limits<int32_t>::max() - 2 * kHeadChunk,
            "vocab_size is ", vocab_size, ", expected a positive number below 2^31");
}

void HeadSampler::begin(const std::vector<DrawSpec>& specs) {
  CHECK_ARG(static_cast<int64_t>(specs.size()) <= max_rows_, specs.size(),
            " rows given to a sampler made for ", max_rows_);
  for (const DrawSpec& spec : specs) {
    CHECK_ARG(spec.temperature >= 0 && std::isfinite(spec.temperature), "temperature is ",
              spec.temperature, ", expected 0 (greedy) or more");
    CHECK_ARG(spec.top_p > 0, "top_p is ", spec.top_p, ", expected more than 0 (1: off)");
    CHECK_ARG(!(spec.min_p > 1) && !std::isnan(spec.min_p), "min_p is ", spec.min_p,
              ", expected 0 (off) to 1");
  }
  rows_.resize(specs.size());
  for (size_t i = 0; i < specs.size(); ++i) {
    Row& row = rows_[i];
    row.spec = specs[i];
    row.head = head_row(specs[i]);
    row.raw = row.scaled = {kNegInf, 0};
    row.score = row.logit = kNegInf;
    row.word = -1;
    row.logits.clear(), row.words.clear(), row.seen.clear(), row.top.clear();
    row.n_top = 0, row.total = 0, row.n_finite = 0;
    row.prune_at = std::max(kMinPrune, 4 * static_cast<size_t>(std::max(0, row.spec.top_k)));
  }
  next_word_ = 0;
}

void HeadSampler::penalise(std::vector<PenaltySpec> specs) {
  CHECK_ARG(next_word_ == 0, "penalise was not called between begin and the first tile");
  CHECK_ARG(specs.size() == rows_.size(), specs.size(), " penalties given for ", rows(), " rows");
  for (const PenaltySpec& spec : specs) {
    CHECK_ARG(spec.repetition > 0 && std::isfinite(spec.repetition), "repetition is ",
              spec.repetition, ", expected more than 0 (1: off)");
    CHECK_ARG(std::isfinite(spec.presence) && std::isfinite(spec.frequency), "presence is ",
              spec.presence, " and frequency ", spec.frequency, ", expected numbers (0: off)");
    int32_t last = -1;
    for (const SeenWord& seen : spec.seen) {
      CHECK_ARG(seen.word > last && seen.word < vocab_size_ && seen.count >= kBanned, "word ",
                seen.word, " (seen ", seen.count, " times) after word ", last,
                ": expected words in order, below ", vocab_size_, ", and counts from 0, or ",
                kBanned, ": never drawn");
      last = seen.word;
    }
  }
  for (size_t i = 0; i < specs.size(); ++i) {
    HeadRow& head = rows_[i].head;
    head.repetition = specs[i].repetition;
    head.presence = specs[i].presence, head.frequency = specs[i].frequency;
    rows_[i].seen = std::move(specs[i].seen);
  }
}

void HeadSampler::ask_sureness(const std::vector<int32_t>& top) {
  CHECK_ARG(next_word_ == 0, "ask_sureness was not called between begin and the first tile");
  CHECK_ARG(top.size() == rows_.size(), top.size(), " numbers of words given for ", rows(),
            " rows");
  for (size_t i = 0; i < top.size(); ++i) {
    CHECK_ARG(top[i] >= 0, "top is ", top[i], ", expected a number of words, 0 for none");
    rows_[i].n_top = top[i];
    rows_[i].head.wants_top = top[i] > 0;
  }
}

void HeadSampler::sureness(Sureness* out) const {
  for (const Row& row : rows_) {
    constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
    Sureness& sure = *out++ = {kNaN, kNaN};
    const double log_sum = row.raw.max + std::log(row.raw.sum);
    if (row.n_top == 0 || row.n_finite == 0 || !std::isfinite(log_sum)) continue;
    std::vector<float> top = row.top;
    const size_t k = std::min(static_cast<size_t>(row.n_top), top.size());
    std::partial_sort(top.begin(), top.begin() + k, top.end(), std::greater<>());
    const double sum = std::accumulate(top.begin(), top.begin() + k, 0.0);
    const double n = static_cast<double>(row.n_finite);
    sure.confidence = static_cast<float>(log_sum - sum / static_cast<double>(k));
    sure.certainty = static_cast<float>(log_sum - row.total / n - std::log(n));
  }
}

void HeadSampler::tile(const TensorView& logits, int64_t first_word, float softcap) {
  CHECK_ARG(next_word_ >= 0, "tile was called before begin");
  Shapes shapes;
  shapes.check("logits", logits, {DType::f32, DType::bf16}, {rows(), "words"});
  const int64_t words = shapes["words"], last_word = first_word + words;
  CHECK_ARG(first_word == next_word_, "the tile starts at word ", first_word, ", expected ",
            next_word_, ": tiles come in order");
  CHECK_ARG(last_word == vocab_size_ || (last_word < vocab_size_ && words % kHeadChunk == 0),
            "the tile ends at word ", last_word, ": expected a multiple of ", kHeadChunk,
            " words, or the end of the vocabulary at ", vocab_size_);
  next_word_ = last_word;

  const Kernels& table = kernels();
  const auto read_chunk = [&](Row& row, int64_t index, int64_t chunk, HeadChunk& out, Slot& slot) {
    const int64_t begin = chunk * kHeadChunk, left = words - begin;
    const std::span<SeenWord> seen = seen_within(row.seen, first_word + begin, kHeadChunk);
    const char* data = static_cast<const char*>(logits.data);
    table.head_chunk(row.head,
                     {.logits = data + (index * words + begin) * dtype_bytes(logits.dtype),
                      .dtype = real_of(logits.dtype),
                      .n_words = static_cast<int32_t>(std::min<int64_t>(left, kHeadChunk)),
                      .first_word = static_cast<int32_t>(first_word + begin),
                      .softcap = softcap,
                      .candidate_logits = slot.logits,
                      .candidate_words = slot.words,
                      .top_logits = slot.top,
                      .seen = seen.data(),
                      .n_seen = static_cast<int64_t>(seen.size())},
                     out);
  };
  const int64_t n_rows = rows(), n_chunks = (words + kHeadChunk - 1) / kHeadChunk;
  const int64_t threads = omp_get_max_threads();
  if (n_rows >= 2 * threads || threads == 1) {
#pragma omp parallel for schedule(dynamic) if (n_rows * words > kHeadChunk)
    for (int64_t i = 0; i < n_rows; ++i) {
      Slot slot;
      HeadChunk chunk;
      for (int64_t c = 0; c < n_chunks; ++c) {
        read_chunk(rows_[i], i, c, chunk, slot);
        merge(rows_[i], chunk, slot);
      }
    }
    return;
  }
  // Few rows: the threads share each row's chunks, a few at a time so that bounds tighten.
  const int64_t wave = 4 * threads;
  std::vector<Slot> slots(wave);
  std::vector<HeadChunk> chunks(wave);
  for (int64_t i = 0; i < n_rows; ++i)
    for (int64_t first = 0; first < n_chunks; first += wave) {
      const int64_t count = std::min(wave, n_chunks - first);
#pragma omp parallel for schedule(static) if (count > 1)
      for (int64_t c = 0; c < count; ++c) read_chunk(rows_[i], i, first + c, chunks[c], slots[c]);
      for (int64_t c = 0; c < count; ++c) merge(rows_[i], chunks[c], slots[c]);
    }
}

void HeadSampler::merge(Row& row, const HeadChunk& chunk, const Slot& slot) const {
  row.raw.add(chunk.max, chunk.sum);
  if (row.n_top > 0) keep_top(row, chunk, slot.top);
  if (row.head.draw != Draw::candidates) {
    if (chunk.word < 0 || (row.word >= 0 && !(chunk.score > row.score))) return;
    row.word = chunk.word, row.score = chunk.score, row.logit = chunk.logit;
    if (row.head.draw == Draw::gumbel) row.head.floor = row.score;
    return;
  }
  row.scaled.add(chunk.z_max, chunk.z_sum);
  row.logits.insert(row.logits.end(), slot.logits, slot.logits + chunk.n_candidates);
  row.words.insert(row.words.end(), slot.words, slot.words + chunk.n_candidates);
  tighten(row);
}

// Which logits are kept depends on where floors stood, the largest k of them do not.
void HeadSampler::keep_top(Row& row, const HeadChunk& chunk, const float* top) {
  row.total += chunk.total;
  row.n_finite += chunk.n_finite;
  row.top.insert(row.top.end(), top, top + chunk.n_top);
  const size_t k = static_cast<size_t>(row.n_top);
  if (row.top.size() < k + kTopSlack) return;
  std::nth_element(row.top.begin(), row.top.begin() + (k - 1), row.top.end(), std::greater<>());
  row.top.resize(k);
  row.head.top_floor = row.top.back();
}

// Raises the floor below which no word can be drawn. Any lower floor gives the same draw.
void HeadSampler::tighten(Row& row) const {
  const DrawSpec& spec = row.spec;
  double floor = row.head.floor;
  if (spec.top_k > 0) {  // the k-th largest so far; top-p needs the mass of all k
    if (row.logits.size() < row.prune_at || row.logits.size() <= static_cast<size_t>(spec.top_k))
      return;
    std::vector<uint32_t> keys;
    find_keys(row.logits, row.head.inv_temperature, keys);
    const Cut cut = select(keys, {}, spec.top_k);
    keep([&](size_t i) { return keys[i] >= cut.key; }, row.logits, row.words);
    for (const float logit : row.logits) {
      const float z = logit * row.head.inv_temperature;
      if (order_key(z) == cut.key) floor = z;
    }
    row.prune_at = std::max(row.prune_at, 2 * row.logits.size());  // only ties can hold more than k
  } else {
    // Words below a share (1 - p) / vocab_size weigh less than 1 - p together: the rest reach p.
    if (spec.top_p < 1 && row.scaled.sum > 0)
      floor = std::max(floor, row.scaled.max + std::log(row.scaled.sum) +
                                  std::log((1.0 - spec.top_p) / vocab_size_) - kBoundSlack);
    if (spec.min_p > 0)
      floor = std::max(floor, row.scaled.max + std::log(double{spec.min_p}) - kBoundSlack);
  }
  row.head.floor = static_cast<float>(floor);
}

// Cuts the candidates to the exact set, then draws among them.
void HeadSampler::choose(Row& row, Scratch& scratch) const {
  const DrawSpec& spec = row.spec;
  auto& [keys, weights, masses] = scratch;
  find_keys(row.logits, row.head.inv_temperature, keys);
  const auto keep_cut = [&](Cut cut) {
    auto inside = [&, left = cut.ties](size_t i) mutable {
      const bool tied = keys[i] == cut.key && left > 0;
      left -= tied;
      return keys[i] > cut.key || tied;
    };
    keep(inside, row.logits, row.words, keys);
  };
  const auto weigh = [&] {
    weights.resize(row.logits.size());
    kernels().head_weights(row.head, row.logits.data(), static_cast<int64_t>(weights.size()),
                           static_cast<float>(row.scaled.max), weights.data());
  };
  if (spec.top_k > 0 && static_cast<size_t>(spec.top_k) < keys.size())
    keep_cut(select(keys, {}, spec.top_k));
  if (spec.top_p < 1) {
    weigh();
    masses.resize(weights.size());
    uint64_t kept_mass = 0;
    for (size_t i = 0; i < weights.size(); ++i) kept_mass += masses[i] = mass_of(weights[i]);
    const double total =
        spec.top_k > 0 ? static_cast<double>(kept_mass) : row.scaled.sum / kMassUnit;
    keep_cut(select(keys, masses, static_cast<uint64_t>(std::ceil(spec.top_p * total))));
  }
  if (spec.min_p > 0) {
    weigh();
    keep([&](size_t i) { return weights[i] >= spec.min_p; }, row.logits, row.words);
  }
  const int64_t index = kernels().head_gumbel(row.head, row.logits.data(), row.words.data(),
                                              static_cast<int64_t>(row.words.size()));
  if (index >= 0) row.word = row.words[index], row.logit = row.logits[index];
}

void HeadSampler::finish(int32_t* tokens, float* logprobs) {
  CHECK_ARG(next_word_ == vocab_size_, "finish was called after ", std::max<int64_t>(next_word_, 0),
            " of ", vocab_size_, " words");
  next_word_ = -1;
  const int64_t n_rows = rows();
  scratch_.resize(omp_get_max_threads());
#pragma omp parallel for schedule(dynamic) if (n_rows > 1)
  for (int64_t i = 0; i < n_rows; ++i) {
    Row& row = rows_[i];
    if (row.head.draw == Draw::candidates) choose(row, scratch_[omp_get_thread_num()]);
    for (const SeenWord& seen : seen_within(row.seen, row.word, 1)) row.logit = seen.logit;
    tokens[i] = row.word;
    logprobs[i] = static_cast<float>(row.logit - row.raw.max - std::log(row.raw.sum));
    if (row.word >= 0 && std::isfinite(logprobs[i])) continue;
    tokens[i] = -1, logprobs[i] = std::numeric_limits<float>::quiet_NaN();
  }
}

}  // namespace branchwise
