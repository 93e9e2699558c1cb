"""Writes tests/golden/chat/: conversations in the styles of published chat templates, as token ids, with the tokens that the
assistant wrote as transformers' `return_assistant_tokens_mask` finds them.

The templates are written here, in those styles. Each is kept twice: with `{% generation %}` tags, from which transformers
takes the mask, and without, so that another way of finding the same tokens can be held to it. Run it with the Python that
scripts/oracle/setup.sh prints.
"""

import json
from pathlib import Path

import jinja2
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

FOLDER = Path(__file__).resolve().parents[2] / "tests" / "golden" / "chat"

SPECIAL = [
    "<s>", "</s>", "<bos>", "<eos>", "<|begin_of_text|>", "<|end_of_text|>", "<|endoftext|>", "<|start_header_id|>",
    "<|end_header_id|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>", "<|system|>",
    "<|user|>", "<|assistant|>", "<|end|>", "[INST]", "[/INST]",
]  # fmt: skip

# (begin of sequence, end of sequence, template); BEGIN and END stand for the tags. What a template writes ends with its
# line, so that the line's own end is not written.
STYLES = {
    "chatml": (
        "<|im_start|>",
        "<|im_end|>",
        """\
{% for message in messages %}
{% if loop.first and message.role != 'system' %}
{{ '<|im_start|>system\\nYou are kind.<|im_end|>\\n' }}
{% endif %}
{% if tools %}{{ tools | tojson }}{% endif %}
{{ '<|im_start|>' + message.role + '\\n' }}
{% if message.role == 'assistant' %}
BEGIN{{ message.content + '<|im_end|>' }}END{{ '\\n' }}
{% else %}
{{ message.content + '<|im_end|>\\n' }}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
""",
    ),
    "llama-3": (
        "<|begin_of_text|>",
        "<|end_of_text|>",
        """\
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' ~ message['role'] ~ '<|end_header_id|>\\n\\n' }}
    {%- if message['role'] == 'assistant' %}
        {#- The tags stand on lines of their own. #}
        BEGIN-
        {{- message['content'] | trim ~ '<|eot_id|>' }}
        END-
    {%- else %}
        {{- message['content'] | trim ~ '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
""",
    ),
    "gemma": (
        "<bos>",
        "<eos>",
        """\
{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('There is no system here') }}{% endif %}
{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Turns must alternate') }}{% endif %}
{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else 'user') + '\\n' }}
{% if message['role'] == 'assistant' %}
BEGIN{{ message['content'].strip() + '<end_of_turn>' }}END{{ '\\n' }}
{% else %}
{{ message['content'].strip() + '<end_of_turn>\\n' }}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}
""",
    ),
    # What the system says stands before the last user's words.
    "mistral": (
        "<s>",
        "</s>",
        """\
{%- if messages[0].role == 'system' %}{%- set system = messages[0].content %}{%- set rest = messages[1:] %}
{%- else %}{%- set rest = messages %}{%- endif %}
{%- set users = namespace(left=rest | selectattr('role', 'equalto', 'user') | list | length) %}
{{- bos_token }}
{%- for message in rest %}
    {%- if message.role == 'user' %}
        {%- set users.left = users.left - 1 %}
        {{- '[INST]' }}
        {%- if system is defined and users.left == 0 %}{{- system + '\\n\\n' }}{%- endif %}
        {{- message.content + '[/INST]' }}
    {%- else %}
        BEGIN-{{- message.content + eos_token }}END-
    {%- endif %}
{%- endfor %}
""",
    ),
    "llama-2": (
        "<s>",
        "</s>",
        """\
{% if messages[0]['role'] == 'system' %}
{% set rest = messages[1:] %}{% set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' %}
{% else %}
{% set rest = messages %}{% set system = '' %}
{% endif %}
{% for message in rest %}
{% if message['role'] == 'user' %}
{{ bos_token + '[INST] ' + (system if loop.first else '') + message['content'].strip() + ' [/INST]' }}
{% else %}
BEGIN{{ ' ' + message['content'].strip() + ' ' + eos_token }}END
{% endif %}
{% endfor %}
""",
    ),
    "phi-3": (
        "<s>",
        "<|endoftext|>",
        """\
{% for message in messages %}
{{ '<|' + message['role'] + '|>' + '\\n' }}
{% if message['role'] == 'assistant' %}
BEGIN{{ message['content'] + '<|end|>' }}END{{ '\\n' }}
{% else %}
{{ message['content'] + '<|end|>\\n' }}
{% endif %}
{% endfor %}
{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}
""",
    ),
    "zephyr": (
        "<s>",
        "</s>",
        """\
{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token + '\\n' }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token + '\\n' }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n' }}BEGIN{{ message['content'] + eos_token }}END{{ '\\n' }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>\\n' }}
{% endif %}
{% endfor %}
""",
    ),
    # The thinking of turns before the last user's words is dropped, and the last turn thinks even where it does not say so.
    "qwen-3": (
        "<|im_start|>",
        "<|im_end|>",
        """\
{%- set ns = namespace(last=0) %}
{%- for message in messages %}{%- if message.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' %}
        {%- set thinking = '' %}
        {%- set content = message.content %}
        {%- if '</think>' in content %}
            {%- set thinking = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        BEGIN-
        {%- if loop.index0 > ns.last %}
            {{- '<think>\\n' + thinking + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- content }}
        {%- endif %}
        {{- '<|im_end|>' }}
        END-
        {{- '\\n' }}
    {%- else %}
        {{- message.content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
""",
    ),
}


def conversation(*contents, system=None):
    turns = [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]
    return ([{"role": "system", "content": system}] if system else []) + turns


CONVERSATIONS = [
    conversation("Name a river.", "The Rhine."),
    # Equal answers: a search for their words finds the wrong place.
    conversation("Is it wet?", "yes", "yes", "yes", "yes?", "yes", system="Say yes."),
    conversation(" two  spaces \n", "  and three   \n", "\n\ta tab", "\n\nlines first", "x", "lines last\n\n"),
    conversation("\U0001f980?", "\U0001f469\u200d\U0001f469\u200d\U0001f467 na\u00efve \u4f60\u597d", "e\u0301", "\U0001f980\U0001f980"),
    conversation("1+1", "<think>\none, two\n</think>\n\n2", "2+2", "<think>\nhm\n</think>\n\n4", system="Think."),
    conversation("{{ a }} {% b %}", '<b> & "c" {{ d }}', "[tool] {\"a\": 1}", "user: {'a': 1}\nassistant: no"),
]  # fmt: skip


def tokenizer():
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=256 + len(SPECIAL) + 60,
        special_tokens=SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = [message["content"] for messages in CONVERSATIONS for message in messages]
    inner.train_from_iterator(texts + ["system\n", "user\n", "assistant\n\n\n", "model\n"] * 4, trainer)
    return inner


def with_tags(template, begin, end):
    """The template with its tags, each written with the dashes that stand by its name."""
    template = template.replace("}}\n", "}}")
    for name, tag in (("BEGIN", begin), ("END", end)):
        template = template.replace(name + "-", "{%- " + tag + " -%}").replace(name, "{% " + tag + " %}")
    return template


def spans(mask):
    """The runs of ones in a mask: [from, to)."""
    edges = [at for at in range(len(mask) + 1) if (mask[at : at + 1] == [1]) != (at > 0 and mask[at - 1] == 1)]
    return list(zip(edges[::2], edges[1::2]))


def case(tok, end_of_turn, messages):
    try:
        out = tok.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True)
    except jinja2.exceptions.TemplateError as error:
        return {"messages": messages, "refused": str(error)}
    prompt = tok.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=True)["input_ids"]
    response = tok(messages[-1]["content"], add_special_tokens=False)["input_ids"]
    turns = spans(out["assistant_masks"])
    assert len(turns) == sum(message["role"] == "assistant" for message in messages)
    return {
        "messages": messages,
        "all": {"ids": out["input_ids"][: turns[-1][1]], "turns": turns},
        "last": {"prompt": prompt, "response": response + [tok.convert_tokens_to_ids(end_of_turn)]},
    }


def main():
    FOLDER.mkdir(exist_ok=True)
    inner = tokenizer()
    inner.save(str(FOLDER / "tokenizer.json"), pretty=False)
    for name, (bos, eos, template) in STYLES.items():
        tok = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=bos, eos_token=eos)
        tok.chat_template = with_tags(template, "generation", "endgeneration")
        plain = with_tags(template, "if true", "endif")
        end = {"llama-3": "<|eot_id|>", "gemma": "<end_of_turn>", "phi-3": "<|end|>"}.get(name, eos)
        cases = [case(tok, end, messages) for messages in CONVERSATIONS]
        whole = {"bos": bos, "eos": eos, "tagged": tok.chat_template, "plain": plain, "cases": cases}
        for messages in CONVERSATIONS:
            try:
                both = [tok.apply_chat_template(messages, tokenize=False, chat_template=t) for t in (tok.chat_template, plain)]
                assert both[0] == both[1], name
            except jinja2.exceptions.TemplateError:
                pass
        text = json.dumps(whole, ensure_ascii=False).replace('{"messages"', '\n{"messages"')
        (FOLDER / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        refused = sum("refused" in case for case in cases)
        print(f"{name}: {len(cases)} conversations, {refused} of them refused")


if __name__ == "__main__":
    main()
