//! Templates that nobody should write.

use proptest::prelude::*;

use super::*;
use crate::dialect::Dialect;
use crate::testing::byte_tokenizer;

fn render(source: &str) -> Result<String, ModelError> {
    let template = ChatTemplate::new(Path::new("t"), source, &byte_tokenizer())?;
    template.render(&[Message::new("user", "a"), Message::new("assistant", "b")], false)
}

/// Without an end, or with one that is far off; without a bound to what they hold, or to how deep.
#[test]
fn what_does_not_end_is_an_error() {
    let many = "{% for i in range(90000) %}{% for j in range(90000) %}";
    let double = |statement: &str| {
        format!("{{% set ns = namespace(s='ab', l=[1]) %}}{{% for i in range(200) %}}{statement}{{% endfor %}}")
    };
    for source in [
        format!("{many}{{% endfor %}}{{% endfor %}}"),
        format!("{many}x{{% endfor %}}{{% endfor %}}"),
        double("{% set ns.s = ns.s + ns.s %}") + "{{ ns.s }}",
        double("{% set ns.s = ns.s ~ ns.s %}") + "{{ ns.s | length }}",
        double("{% set ns.s = ns.s | replace('a', 'aaaa') %}"),
        double("{% set ns.s = ns.s.replace('a', 'aaaa') %}"),
        double("{% set ns.s = [ns.s, ns.s] | join(ns.s) %}"),
        double("{% set ns.s %}{{ ns.s }}{{ ns.s }}{% endset %}"),
        double("{% generation %}{% set ns.s = ns.s ~ ns.s %}{% endgeneration %}"),
        double("{% set ns.l = [ns.l, ns.l] %}") + "{{ ns.l }}",
        double("{% set ns.l = [ns.l, ns.l] %}") + "{{ ns.l | tojson }}",
        double("{% set ns.l = [ns.l, ns.l] %}") + "{{ ns.l | tojson(indent=64) }}",
    ] {
        let error = render(&source).unwrap_err().to_string();
        let problem = "cannot apply the chat template of `t`: it takes more than 2000000 steps, operations and pieces of 64 \
                       bytes; shorten the conversation, or mend the template";
        assert_eq!(error, problem, "{source}");
    }
    for (source, problem) in [
        ("{% for i in range(10 ** 9) %}{% endfor %}", "range has too many elements"),
        ("{{ 'ab' * 10 ** 12 }}", "takes more than"),
        ("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "recursion limit"),
        ("{{ [] | tojson(indent=1000000000000) }}", "JSON cannot be indented by 1000000000000"),
        ("{% include 'chat_template' %}", "could not render include"),
    ] {
        let error = render(source).unwrap_err().to_string();
        assert!(error.contains(problem), "{source}: {error}");
    }
}

/// Values within values within values, as deep as the steps allow.
#[test]
fn what_is_deep_is_an_error_or_a_text() {
    for (nest, show) in [
        ("[ns.v]", "{{ ns.v }}"),
        ("[ns.v]", "{{ ns.v | tojson }}"),
        ("[ns.v]", "{{ ns.v == [ns.v] }}"),
        ("{'a': ns.v}", "{{ ns.v | tojson }}"),
        ("(ns.v, 1)", "{{ ns.v | list | string | length }}"),
        ("ns.v | reverse", "{{ ns.v | list | length }}"),
        ("ns.v + [1]", "{{ ns.v | length }}"),
    ] {
        let source = format!(
            "{{% set ns = namespace(v=[1]) %}}{{% for i in range(90000) %}}{{% set ns.v = {nest} %}}{{% endfor %}}{show}"
        );
        let _ = render(&source);
    }
    let parentheses = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
    assert!(render(&parentheses).is_err());
    let blocks = format!("{}{}", "{% if true %}".repeat(100_000), "{% endif %}".repeat(100_000));
    assert!(render(&blocks).is_err());
}

#[test]
fn an_error_is_told_in_part() {
    let error = render("{{ raise_exception('long ' * 10000) }}").unwrap_err().to_string();
    assert!(error.chars().count() < TOLD + 100 && error.ends_with("..."), "{error}");
    let nested = "{% set ns = namespace(l=[1]) %}{% for i in range(200) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}";
    let error = render(&format!("{nested}{{{{ raise_exception(ns.l) }}}}")).unwrap_err().to_string();
    assert!(error.contains("invalid operation: [[[[") && error.ends_with("..."), "{error}");
    assert!(render(&format!("{nested}{{{{ strftime_now(ns.l) }}}}")).is_err());
}

/// Expressions of all kinds that grow.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("v".to_owned()),
        Just("x".to_owned()),
        Just("messages".to_owned()),
        Just("messages[0].content".to_owned()),
        Just("'ab'".to_owned()),
        (0..100_000_u32).prop_map(|n| n.to_string()),
        (0..100_000_u32).prop_map(|n| format!("range({n})")),
    ];
    leaf.prop_recursive(4, 12, 2, |inner| {
        let operator =
            prop_oneof![Just("+"), Just("~"), Just("*"), Just("**"), Just("=="), Just("in"), Just("and"), Just("//")];
        let filter = prop_oneof![
            Just("tojson"),
            Just("tojson(indent=9)"),
            Just("length"),
            Just("join(v)"),
            Just("upper"),
            Just("trim"),
            Just("list"),
            Just("reverse"),
            Just("string"),
            Just("replace('a', v)"),
            Just("unique"),
            Just("sort"),
            Just("batch(2)"),
            Just("indent(4)"),
            Just("center(90000)"),
            Just("first"),
            Just("items"),
            Just("groupby(0)"),
            Just("generation"),
            Just("map('upper')"),
            Just("selectattr('role')"),
            Just("pprint"),
            Just("urlencode"),
            Just("format(v)"),
            Just("slice(3)"),
        ];
        let method = prop_oneof![
            Just("split('a')"),
            Just("strip()"),
            Just("replace('b', v)"),
            Just("format(v)"),
            Just("join(v)"),
            Just("title()"),
            Just("items()"),
            Just("startswith('a')"),
            Just("content"),
            Just("splitlines()"),
        ];
        prop_oneof![
            (inner.clone(), operator, inner.clone()).prop_map(|(a, op, b)| format!("({a} {op} {b})")),
            (inner.clone(), filter).prop_map(|(a, filter)| format!("({a} | {filter})")),
            (inner.clone(), method).prop_map(|(a, method)| format!("{a}.{method}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, {b}]")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{{'k': {a}, 'l': {b}}}")),
            (inner.clone(), inner).prop_map(|(a, b)| format!("{a}[{b}:]")),
        ]
    })
}

fn template() -> impl Strategy<Value = String> {
    let text = prop_oneof!["[a-z {}%#\\n-]{0,5}", "\\PC{0,3}"];
    let leaf = prop_oneof![
        1 => text,
        3 => expression().prop_map(|e| format!("{{{{ {e} }}}}")),
        3 => expression().prop_map(|e| format!("{{% set v = {e} %}}")),
        3 => expression().prop_map(|e| format!("{{% set ns.v = {e} %}}{{% set v = ns.v %}}")),
        1 => expression().prop_map(|e| format!("{{{{ raise_exception({e}) }}}}")),
        1 => expression().prop_map(|e| format!("{{{{ strftime_now({e}) }}}}")),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        let body = prop::collection::vec(inner, 0..4).prop_map(|parts| parts.concat());
        prop_oneof![
            (expression(), body.clone()).prop_map(|(e, body)| format!("{{% for x in {e} %}}{body}{{% endfor %}}")),
            (0..90_000_u32, body.clone())
                .prop_map(|(n, body)| format!("{{% for x in range({n}) %}}{body}{{% endfor %}}")),
            (expression(), body.clone())
                .prop_map(|(e, body)| format!("{{% if {e} %}}{body}{{% else %}}{body}{{% endif %}}")),
            body.clone().prop_map(|body| format!("{{% generation %}}{body}{{% endgeneration %}}")),
            body.clone().prop_map(|body| format!("{{% set v %}}{body}{{% endset %}}")),
            body.clone().prop_map(|body| format!("{{% filter upper %}}{body}{{% endfilter %}}")),
            (expression(), body.clone()).prop_map(|(e, body)| format!(
                "{{% macro f(x) %}}{body}{{{{ f({e}) }}}}{{% endmacro %}}{{{{ f(1) }}}}"
            )),
            body,
        ]
    })
}

proptest! {
    /// Whatever a template says, it ends with a text of bounded size or with an error, and turns are of the text. Runs long
    /// with `PROPTEST_CASES`.
    #[test]
    fn a_random_template_ends(source in template()) {
        let source = format!("{{% set ns = namespace(v='c') %}}{{% set v = 'd' %}}{{% set x = 'e' %}}{source}");
        let tokenizer = byte_tokenizer();
        let Ok(mut template) = ChatTemplate::new(Path::new("t"), &source, &tokenizer) else { return Ok(()) };
        // Less than is allowed, so that many can be tried.
        let fuel = 20_000;
        Arc::make_mut(&mut template.environment).set_fuel(Some(fuel));
        let messages = [Message::new("user", " a\u{1f980}"), Message::new("assistant", "b <|im_end|>\n")];
        for add_generation_prompt in [false, true] {
            match template.render(&messages, add_generation_prompt) {
                Ok(text) => prop_assert!(text.len() as u64 <= 64 * fuel),
                Err(error) => prop_assert!(error.to_string().chars().count() < TOLD + 100),
            }
        }
        let dialect = Dialect::new(tokenizer, Some(template));
        if let Ok(conversation) = dialect.encode_conversation(&messages) {
            let mut behind = 1;
            for turn in &conversation.turns {
                prop_assert!(behind <= turn.start && turn.start < turn.end, "{:?}", conversation.turns);
                behind = turn.end;
            }
            prop_assert_eq!(conversation.tokens.len(), behind);
        }
    }
}
