"""Tokens of conversations under chat templates, by transformers: writes templates.json beside itself.

    pip install -r ../python/requirements.txt && python3 templates.py

Each case changes files of the folder `tiny`; a value of null removes a file.
"""

import json
import pathlib
import shutil
import tempfile

from transformers import AutoTokenizer

HERE = pathlib.Path(__file__).parent
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
THING = {"id": 320, "content": "thing", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": False}


def config(template, **more):
    return {"tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>",
                                      "chat_template": template, **more}}


def added(token):
    tokenizer = json.loads((HERE / "tiny/tokenizer.json").read_text())
    tokenizer["added_tokens"].append(token)
    return {"tokenizer.json": tokenizer}


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
    "a word of its own": {**config(CHATML), **added(THING)},
}
TEXTS = ["Tell me a thing.", "  Tell me a thing.\n", "", "Of 3 things: <b>one</b> & 'two'"]

out = []
for name, files in CASES.items():
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder) / "model"
        shutil.copytree(HERE / "tiny", folder)
        for file, value in files.items():
            (folder / file).write_text(json.dumps(value))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokens = []
        for text in TEXTS:
            messages = [{"role": "system", "content": ""}, {"role": "user", "content": text}]
            found = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
            tokens.append(found)
        out.append({"name": name, "files": files, "tokens": tokens})
HERE.joinpath("templates.json").write_text(json.dumps({"texts": TEXTS, "cases": out}) + "\n")
