//! Rotary settings: `rope_theta` and `rope_scaling` of transformers 4, `rope_parameters` of transformers 5, or both.

use super::keys::Keys;
use crate::config::{DecoderConfig, Family, RopeScaling, yarn_attention_factor};
use crate::error::ModelError;

/// Names of the object that says how rotary positions are scaled, in the order in which transformers prefers them.
const OBJECTS: [&str; 2] = ["rope_scaling", "rope_parameters"];

/// Reads the rotary settings into `config`, whose dimensions are there.
pub(super) fn read(keys: &Keys, config: &mut DecoderConfig) -> Result<(), ModelError> {
    let family = config.family;
    let default_theta = match family {
        Family::SmolLm3 => 2_000_000.0,
        Family::Gemma3 => 1_000_000.0,
        _ => 10_000.0,
    };
    let mut theta = keys.float("rope_theta")?;
    let mut factor = keys.float("partial_rotary_factor")?;
    if family == Family::Gemma3 {
        config.local_rope_theta = Some(keys.float("rope_local_base_freq")?.unwrap_or(10_000.0));
    }
    let original = keys.optional("original_max_position_embeddings")?;
    for name in OBJECTS {
        let Some(mut object) = keys.object(name)? else { continue };
        // By kind of layer, in models whose kinds differ.
        let by_kind = ["full_attention", "sliding_attention"].map(|kind| object.get(kind).is_some());
        if family == Family::Gemma3 && by_kind != [false, false] {
            if let Some(local) = object.object("sliding_attention")? {
                if !matches!(kind(&local)?, None | Some("default")) {
                    return Err(keys.unsupported(name, "unscaled rotary positions in windowed layers"));
                }
                config.local_rope_theta = local.float("rope_theta")?.or(config.local_rope_theta);
            }
            match object.object("full_attention")? {
                Some(global) => object = global,
                None => continue,
            }
        }
        let nested = object.float("rope_theta")?;
        theta = match (theta, nested) {
            (Some(a), Some(b)) if a != b => {
                let problem = format!("is {a}, but `{name}` says {b}; leave one of them out");
                return Err(keys.fail("rope_theta", problem));
            }
            _ => nested.or(theta),
        };
        factor = object.float("partial_rotary_factor")?.or(factor);
        if config.rope_scaling == RopeScaling::None {
            config.rope_scaling = scaling(keys, name, &object, original, config)?;
        }
    }
    config.rope_theta = theta.unwrap_or(default_theta);
    // Of these families alone transformers rotates a part.
    match (family, factor) {
        (Family::Phi3, Some(factor)) => config.partial_rotary_factor = factor,
        (_, Some(factor)) if factor != 1.0 => return Err(keys.unsupported("partial_rotary_factor", "1")),
        _ => {}
    }
    if let RopeScaling::LongRope { original_positions, .. } = config.rope_scaling {
        config.max_positions = config.max_positions.min(original_positions);
    }
    Ok(())
}

fn kind<'a>(object: &Keys<'a>) -> Result<Option<&'a str>, ModelError> {
    Ok(object.text("rope_type")?.or(object.text("type")?))
}

/// What the object `name` says; `original` is the context that the configuration itself names.
fn scaling(
    keys: &Keys,
    name: &str,
    object: &Keys,
    original: Option<usize>,
    config: &DecoderConfig,
) -> Result<RopeScaling, ModelError> {
    let must = |key: &str| object.float(key)?.ok_or_else(|| object.fail(key, "is missing"));
    let original_positions = || -> Result<usize, ModelError> {
        let own = object.optional("original_max_position_embeddings")?;
        Ok(original.or(own).unwrap_or(config.max_positions))
    };
    let stated = kind(object)?;
    let read = |kind: &str| -> Result<Option<RopeScaling>, ModelError> {
        Ok(Some(match kind {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: must("factor")? },
            "dynamic" => RopeScaling::Dynamic { factor: must("factor")? },
            "llama3" => RopeScaling::Llama3 {
                factor: must("factor")?,
                low_freq_factor: must("low_freq_factor")?,
                high_freq_factor: must("high_freq_factor")?,
                original_positions: original_positions()?,
            },
            "yarn" if config.family != Family::Phi3 => {
                let original_positions = original_positions()?;
                let stretch = config.max_positions as f64 / original_positions as f64;
                let factor = object.float("factor")?.unwrap_or(stretch);
                RopeScaling::Yarn {
                    factor,
                    // As in transformers, 0 counts as absent.
                    beta_fast: object.float("beta_fast")?.filter(|&beta| beta != 0.0).unwrap_or(32.0),
                    beta_slow: object.float("beta_slow")?.filter(|&beta| beta != 0.0).unwrap_or(1.0),
                    truncate: object.bool("truncate")?.unwrap_or(true),
                    original_positions,
                    attention_factor: match object.float("attention_factor")? {
                        Some(factor) => factor,
                        None => attention_factor(object, factor)?,
                    },
                }
            }
            // Phi's first files have its older names.
            "longrope" | "su" | "yarn" => {
                let original_positions = original_positions()?;
                let stretch = config.max_positions as f64 / original_positions as f64;
                let factor = object.float("factor")?.unwrap_or(stretch);
                let by_length = (1.0 + factor.ln() / (original_positions as f64).ln()).sqrt();
                let attention_factor = object.float("attention_factor")?;
                RopeScaling::LongRope {
                    short_factor: object.floats("short_factor")?,
                    long_factor: object.floats("long_factor")?,
                    original_positions,
                    long_positions: config.max_positions,
                    attention_factor: attention_factor.unwrap_or(if factor <= 1.0 { 1.0 } else { by_length }),
                }
            }
            _ => return Ok(None),
        }))
    };
    let known = match stated {
        // A bare object of base or share; anything else has a kind.
        None => object.json.keys().all(|key| ["rope_theta", "partial_rotary_factor"].contains(&key.as_str())),
        Some(_) => true,
    };
    match read(stated.unwrap_or("default"))? {
        Some(scaling) if known => Ok(scaling),
        _ => {
            let kinds = "`default`, `linear`, `dynamic`, `llama3`, `yarn` or `longrope`";
            Err(keys.unsupported(name, &format!("the `rope_type` {kinds}")))
        }
    }
}

/// What YaRN's paper suggests, or a quotient of two such.
fn attention_factor(object: &Keys, factor: f64) -> Result<f64, ModelError> {
    let weights = [object.float("mscale")?, object.float("mscale_all_dim")?];
    Ok(match weights.map(|weight| weight.filter(|&weight| weight != 0.0)) {
        [Some(above), Some(below)] => yarn_attention_factor(factor, above) / yarn_attention_factor(factor, below),
        _ => yarn_attention_factor(factor, 1.0),
    })
}
