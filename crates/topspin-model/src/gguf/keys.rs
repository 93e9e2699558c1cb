//! Names of keys, for reading and for writing. Those of a model's arithmetic stand behind the architecture's name.

pub(super) const ARCHITECTURE: &str = "general.architecture";
pub(super) const ALIGNMENT: &str = "general.alignment";

pub(super) const CONTEXT: &str = "context_length";
pub(super) const WIDTH: &str = "embedding_length";
pub(super) const GATED_WIDTH: &str = "feed_forward_length";
pub(super) const LAYERS: &str = "block_count";
pub(super) const HEADS: &str = "attention.head_count";
pub(super) const KV_HEADS: &str = "attention.head_count_kv";
pub(super) const KEY_WIDTH: &str = "attention.key_length";
pub(super) const VALUE_WIDTH: &str = "attention.value_length";
pub(super) const EPS: &str = "attention.layer_norm_rms_epsilon";
pub(super) const VOCABULARY: &str = "vocab_size";

pub(super) const WINDOW: &str = "attention.sliding_window";
pub(super) const WINDOW_PATTERN: &str = "attention.sliding_window_pattern";
pub(super) const ATTENTION_SOFTCAP: &str = "attn_logit_softcapping";
pub(super) const LOGIT_SOFTCAP: &str = "final_logit_softcapping";
pub(super) const ATTENTION_SCALE: &str = "attention.scale";
pub(super) const EMBEDDING_SCALE: &str = "embedding_scale";
pub(super) const RESIDUAL_SCALE: &str = "residual_scale";
pub(super) const LOGIT_SCALE: &str = "logit_scale";

pub(super) const ROTARY_WIDTH: &str = "rope.dimension_count";
pub(super) const ROTARY_BASE: &str = "rope.freq_base";
pub(super) const LOCAL_ROTARY_BASE: &str = "rope.freq_base_swa";
pub(super) const SCALING: &str = "rope.scaling.type";
pub(super) const SCALING_FACTOR: &str = "rope.scaling.factor";
pub(super) const SCALING_FACTOR_BEFORE: &str = "rope.scale_linear";
pub(super) const SCALING_ATTENTION: &str = "rope.scaling.attn_factor";
pub(super) const SCALING_FINETUNED: &str = "rope.scaling.finetuned";
pub(super) const ORIGINAL_CONTEXT: &str = "rope.scaling.original_context_length";
pub(super) const YARN_ATTENTION: &str = "rope.scaling.yarn_attn_factor";
pub(super) const YARN_FAST: &str = "rope.scaling.yarn_beta_fast";
pub(super) const YARN_SLOW: &str = "rope.scaling.yarn_beta_slow";
pub(super) const YARN_EXTRAPOLATION: &str = "rope.scaling.yarn_ext_factor";

pub(super) const TOKENIZER: &str = "tokenizer.ggml.model";
pub(super) const PRE_TOKENIZER: &str = "tokenizer.ggml.pre";
pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
pub(super) const TOKEN_TYPES: &str = "tokenizer.ggml.token_type";
pub(super) const MERGES: &str = "tokenizer.ggml.merges";
pub(super) const SCORES: &str = "tokenizer.ggml.scores";
pub(super) const BOS: &str = "tokenizer.ggml.bos_token_id";
/// End of text, of a turn, of a message: all of them end an answer.
pub(super) const ENDS: [&str; 3] =
    ["tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"];
pub(super) const PADDING: &str = "tokenizer.ggml.padding_token_id";
pub(super) const UNKNOWN_TOKEN: &str = "tokenizer.ggml.unknown_token_id";
pub(super) const ADD_BOS: &str = "tokenizer.ggml.add_bos_token";
pub(super) const ADD_EOS: &str = "tokenizer.ggml.add_eos_token";
pub(super) const SPACE_PREFIX: &str = "tokenizer.ggml.add_space_prefix";
pub(super) const TEMPLATE: &str = "tokenizer.chat_template";
