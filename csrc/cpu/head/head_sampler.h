// Draws one token per row from logits that arrive in vocabulary tiles, and never stores them.
//
// Greedy and Gumbel-max rows keep a running best. Rows with top-k, top-p or min-p keep a list of
// the words that can still be in the final set, by bounds that only tighten; the exact set is cut
// from the list at the end by radix selection, without a sort. Everything is reduced over fixed
// chunks of kHeadChunk words in order: tiles, rows and threads do not change a bit.
#pragma once

#include <cstdint>
#include <vector>

#include "core/tensor_view.h"
#include "cpu/isa/kernels.h"

namespace branchwise {

// How one row is drawn; top_k <= 0, top_p >= 1 and min_p <= 0 switch a filter off.
struct DrawSpec {
  uint64_t seed, lineage;
  int32_t position;
  float temperature, top_p;
  int32_t top_k;
  float min_p;
};

// What a row takes from the logits of words it has seen, before temperature and filters: first
// l > 0 ? l / repetition : l * repetition, then presence once and frequency each time that the row
// has written the word. A banned word has the logit -inf. words: in order, none twice.
struct PenaltySpec {
  float repetition, presence, frequency;
  std::vector<SeenWord> seen;
};

// How sure a model was of what comes next: logsumexp(l) less the mean of the k largest logits l,
// and less the mean of all and the logarithm of their number. Logits of -inf do not count.
struct Sureness {
  float confidence, certainty;
};

class HeadSampler {
 public:
  HeadSampler(int64_t max_rows, int64_t vocab_size);

  // Starts new draws, one per row.
  void begin(const std::vector<DrawSpec>& specs);
  // Penalties of these draws, one per row; between `begin` and the first tile, or not at all.
  void penalise(std::vector<PenaltySpec> specs);
  // Of these draws, one per row: the k of its confidence, 0 for none; where `penalise` goes.
  void ask_sureness(const std::vector<int32_t>& top);
  // Logits [rows, words] of words [first_word, first_word + words). Tiles come in order; all but
  // the last are a multiple of kHeadChunk words. softcap > 0: logits are c * tanh(logits / c).
  void tile(const TensorView& logits, int64_t first_word, float softcap);
  // The drawn words, and their log-probability at temperature 1 without penalties and filters.
  // [rows] each; -1 and NaN where the logits hold NaN or infinity, or no finite value.
  void finish(int32_t* tokens, float* logprobs);
  // After `finish`, [rows]; NaN for rows that did not ask, or got no word.
  void sureness(Sureness* out) const;

  int64_t rows() const { return static_cast<int64_t>(rows_.size()); }
  int64_t max_rows() const { return max_rows_; }
  int64_t vocab_size() const { return vocab_size_; }

 private:
  struct Sum {  // sum of exp(x - max)
    double max, sum;
    void add(float other_max, float other_sum);
  };
  struct Scratch {  // of one thread, for the candidates of one row
    std::vector<uint32_t> keys;
    std::vector<float> weights;
    std::vector<uint64_t> masses;
  };
  struct Row {
    HeadRow head;
    DrawSpec spec;
    Sum raw, scaled;  // of logits, of logits / T
    float score, logit;
    int32_t word;
    std::vector<SeenWord> seen;
    std::vector<float> logits;  // candidates, in order of words
    std::vector<int32_t> words;
    size_t prune_at;  // candidates that trigger the next selection
    int32_t n_top;    // the k of its confidence; 0: not asked
    double total;     // of finite logits
    int64_t n_finite;
    std::vector<float> top;  // the largest logits so far, and some below them
  };

  struct Slot {  // what a chunk writes besides its numbers
    float logits[kHeadChunk + 64], top[kHeadChunk + 64];
    int32_t words[kHeadChunk + 64];
  };

  void merge(Row& row, const HeadChunk& chunk, const Slot& slot) const;
  static void keep_top(Row& row, const HeadChunk& chunk, const float* top);
  void tighten(Row& row) const;
  void choose(Row& row, Scratch& scratch) const;

  int64_t max_rows_, vocab_size_;
  int64_t next_word_ = -1;  // -1: begin was not called
  std::vector<Row> rows_;
  std::vector<Scratch> scratch_;
};

}  // namespace branchwise
