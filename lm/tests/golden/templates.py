"""Tokens of conversations under chat templates, by transformers: writes templates.json beside itself.

    pip install -r ../python/requirements.txt && python3 templates.py

Each case changes files of the folder `tiny`, and adds tokens to its tokenizer. The templates of families have the shapes that are
published with the models, written anew and shorter.
"""

import datetime

import json
import pathlib
import shutil
import tempfile

import transformers.utils.chat_template_utils as chat_template_utils
from transformers import AutoTokenizer


class Fixed(datetime.datetime):
    """The clock that templates are given: `strftime_now` in lm/src/jinja.rs."""

    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26, 12)


chat_template_utils.datetime = Fixed

HERE = pathlib.Path(__file__).parent
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# The system text goes inside the first user turn; replies are closed by the end of a text.
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}"
    "{% else %}{% set rest = messages %}{% set system = false %}{% endif %}{% for m in rest %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if loop.index0 == 0 and system != false %}{% set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + m['content'] %}"
    "{% else %}{% set content = m['content'] %}{% endif %}"
    "{% if m['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}{%- set date_string = '26 Jul 2024' %}{%- endif %}{%- endif %}"
    "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content']|trim %}{%- set messages = messages[1:] %}"
    "{%- else %}{%- set system_message = '' %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}{{- 'Today Date: ' + date_string + '\n\n' }}{{- system_message }}{{- '<|eot_id|>' }}"
    "{%- for message in messages %}{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
# Without a system role.
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
)
ZEPHYR = (
    "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'system' %}\n{{ '<|system|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
QWEN2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN3 = """{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or (not loop.last and reasoning_content)) %}
            {{- '<|im_start|>' + message.role + '\n<think>\n' + reasoning_content.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}"""
GEMMA2 = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
GEMMA3 = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '\n\n' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '\n\n' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '\n' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {{ item['text'] | trim }}
        {%- endfor -%}
    {%- endif -%}
    {{ '<end_of_turn>\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model\n'}}
{%- endif -%}
"""
OLMO2 = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}{{ '<|system|>\n' + message['content'] + '\n' }}"
    "{% elif message['role'] == 'user' %}{{ '<|user|>\n' + message['content'] + '\n' }}"
    "{% elif message['role'] == 'assistant' %}{% if not loop.last %}{{ '<|assistant|>\n'  + message['content'] + eos_token + '\n' }}"
    "{% else %}{{ '<|assistant|>\n'  + message['content'] + eos_token }}{% endif %}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)
SMOLLM3 = """{%- if enable_thinking is not defined -%}{%- set enable_thinking = true -%}{%- endif -%}
{%- if enable_thinking -%}{%- set reasoning_mode = "/think" -%}{%- else -%}{%- set reasoning_mode = "/no_think" -%}{%- endif -%}
{{- "<|im_start|>system\n" -}}
{%- if messages[0].role == "system" -%}
  {%- set system_message = messages[0].content -%}
  {%- if "/no_think" in system_message -%}{%- set reasoning_mode = "/no_think" -%}
  {%- elif "/think" in system_message -%}{%- set reasoning_mode = "/think" -%}{%- endif -%}
  {%- set custom_instructions = system_message.replace("/no_think", "").replace("/think", "").rstrip() -%}
{%- endif -%}
{{- "## Metadata\n\n" -}}
{%- set today = strftime_now("%d %B %Y") -%}
{{- "Today Date: " ~ today ~ "\n" -}}
{{- "Reasoning Mode: " + reasoning_mode + "\n\n" -}}
{{- "## Custom Instructions\n\n" -}}
{%- if custom_instructions -%}{{- custom_instructions + "\n\n" -}}
{%- elif reasoning_mode == "/think" -%}{{- "Think first.\n\n" -}}
{%- else -%}{{- "You are SmolLM.\n\n" -}}{%- endif -%}
{{- "<|im_end|>\n" -}}
{%- for message in messages -%}
  {%- set content = message.content if message.content is string else "" -%}
  {%- if message.role == "user" -%}{{- "<|im_start|>" + message.role + "\n"  + content + "<|im_end|>\n" -}}
  {%- elif message.role == "assistant" -%}
    {%- generation -%}
    {%- if reasoning_mode == "/think" -%}{{- "<|im_start|>assistant\n" + content.lstrip("\n") + "<|im_end|>\n" -}}
    {%- else -%}{{- "<|im_start|>assistant\n" + "<think>\n\n</think>\n" + content.lstrip("\n") + "<|im_end|>\n" -}}{%- endif -%}
    {%- endgeneration -%}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {%- if reasoning_mode == "/think" -%}{{- "<|im_start|>assistant\n" -}}
  {%- else -%}{{- "<|im_start|>assistant\n" + "<think>\n\n</think>\n"  -}}{%- endif -%}
{%- endif -%}"""
# Its control tokens take the white space after them along.
PHI = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{'<|system|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'user' %}{{'<|user|>\n' + message['content'] + '<|end|>\n'}}"
    "{% elif message['role'] == 'assistant' %}{{'<|assistant|>\n' + message['content'] + '<|end|>\n'}}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)

THING = {"id": 320, "content": "thing", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": False}


def config(template, **more):
    return {"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>",
                                      "chat_template": template, **more}}


def tokens(*contents, **flags):
    """Tokens after the vocabulary's 320."""
    return [{**THING, "id": 320 + i, "content": c, **flags} for i, c in enumerate(contents)]


def special(*contents, **flags):
    return tokens(*contents, special=True, **flags)


def folder_with(folder, files, added):
    """The tiny model with other files and more tokens."""
    shutil.copytree(HERE / "tiny", folder)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"] += added
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    model = json.loads((folder / "config.json").read_text())
    model["vocab_size"] += len(added)
    (folder / "config.json").write_text(json.dumps(model))
    for file, value in files.items():
        (folder / file).write_text(json.dumps(value))


BOTH = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
# A name, the template and its words, tokens that are added to the tokenizer, and whether it takes a system message.
FAMILIES = [
    ("Llama 2", config(LLAMA2, **BOTH), special(), True),
    ("Llama 3", config(LLAMA3, bos_token="<|begin_of_text|>"), special("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"), True),
    ("Mistral", config(MISTRAL, **BOTH), special(), False),
    ("Mistral, later", config(MISTRAL, **BOTH), special("[INST]", "[/INST]"), False),
    ("Zephyr", config(ZEPHYR), special(), True),
    ("Qwen 2", config(QWEN2), special(), True),
    ("Qwen 3", config(QWEN3), tokens("<think>", "</think>", "<tool_response>", "</tool_response>"), True),
    ("Gemma 2", config(GEMMA2, **BOTH), special("<start_of_turn>", "<end_of_turn>"), False),
    ("Gemma 3", config(GEMMA3, **BOTH), special("<start_of_turn>", "<end_of_turn>"), True),
    ("OLMo 2", config(OLMO2, **BOTH), special(), True),
    ("SmolLM 3", config(SMOLLM3), tokens("<think>", "</think>"), True),
    ("Phi", config(PHI), special("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", rstrip=True), True),
    ("Phi with spaces taken on both sides", config(PHI), special("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", lstrip=True, rstrip=True), True),
    ("what is said is looked at", config(CHATML.replace("message['content']", "(message['content'] | upper | tojson)")), special(), True),
    ("what is said is cut", config(CHATML.replace("message['content']", "(message['content'].split(' ')[-1])")), special(), True),
    ("words of their own, with flags", config(CHATML), [
        {**THING, "id": 320, "content": "<think>", "lstrip": True, "rstrip": True},
        {**THING, "id": 321, "content": "thing", "single_word": True},
        {**THING, "id": 322, "content": "Of", "normalized": True},
        {**THING, "id": 323, "content": "<b>", "lstrip": True}], True),
]


CASES = {
    "as it is": config(CHATML),
    "bos": config("{{ bos_token }}" + CHATML, bos_token="<|endoftext|>"),
    "bos as an object": config("{{ bos_token }}" + CHATML, bos_token={"content": "<|endoftext|>", "__type": "AddedToken"}),
    "bos in the older file": {**config("{{ bos_token }}" + CHATML),
                              "special_tokens_map.json": {"bos_token": "<|endoftext|>"}},
    "pad": config("{{ pad_token }}" + CHATML, pad_token="<|endoftext|>"),
    "turns closed by eos": config(CHATML.replace("'<|im_end|>'", "eos_token")),
    "trimmed": config(CHATML.replace("message['content']", "message['content'] | trim")),
    "a system prompt only where there is one": config(
        "{% if messages[0]['content'] %}S{% endif %}" + CHATML),
    "no tools": config("{% if tools is not none %}T{% endif %}{% if documents %}D{% endif %}" + CHATML),
    "no tools, the other way": config("{% if tools is defined %}T{% endif %}" + CHATML),
    "json": config("{{ {'a': \"it's <b>\", 'b': [1, true, none]} | tojson }}" + CHATML),
    "generation": config("{% generation %}x{% endgeneration %}\n{%- generation -%} y {%- endgeneration -%}" + CHATML),
    "blocks and white space": config("{% set ns = namespace(n=0) %}\n  {% for m in messages %}\n  {% set ns.n = ns.n + 1 %}\n"
                                     "  {% endfor %}\n{{ ns.n }}" + CHATML),
}
CASES = [(name, files, [], True) for name, files in CASES.items()] + [("a word of its own", config(CHATML), [THING], True)] + FAMILIES
TEXTS = ["Tell me a thing.", "  Tell me a thing.\n", "", "Of 3 things: <b>one</b> & 'two'", "a <think> b\n</think>\n\nthings thing",
         "/no_think na\u00efve \U0001f41d\t\u4f60\u597d  \n\n x ", "<tool_response>{\"a\": 1}</tool_response>", "[INST] {{ x }} [/INST]"]
REPLY = " Then  do."

out = []
for name, files, more, system in CASES:
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder) / "model"
        folder_with(folder, files, more)
        tokenizer = AutoTokenizer.from_pretrained(folder)

        def encode(messages, opened):
            return tokenizer.apply_chat_template(messages, add_generation_prompt=opened, tokenize=True, return_dict=False, enable_thinking=False)

        found, whole = [], []
        for text in TEXTS:
            messages = [{"role": "system", "content": ""}] * system + [{"role": "user", "content": text}]
            # What transformers takes for a control token in what is said stays text here.
            if not any(t["special"] and t["content"] in text for t in more):
                found.append(encode(messages, True))
                whole.append(encode(messages + [{"role": "assistant", "content": REPLY}] + messages[-1:], True))
            else:
                found.append(None)
                whole.append(None)
        out.append({"name": name, "files": files, "added": more, "tokens": found, "whole": whole})
HERE.joinpath("templates.json").write_text(json.dumps({"texts": TEXTS, "reply": REPLY, "cases": out}) + "\n")
