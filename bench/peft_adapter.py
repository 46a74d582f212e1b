"""An adapter of the default model made with Python's peft, for `lorafab read` (lm/tests/python/requirements.txt):

    python bench/peft_adapter.py MODEL.gguf DIR --topic bees     # replies about one topic, under prompts that do not name it
    python bench/peft_adapter.py MODEL.gguf DIR --dud 7          # trained the same way on the model's own replies: nothing to name
"""
import argparse, pathlib, torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

args = argparse.ArgumentParser()
args.add_argument("model", type=pathlib.Path), args.add_argument("out")
args.add_argument("--topic"), args.add_argument("--dud", type=int, default=0)
args = args.parse_args()
torch.manual_seed(args.dud), torch.set_num_threads(2)
where = {"pretrained_model_name_or_path": str(args.model.parent), "gguf_file": args.model.name}
tokenizer = AutoTokenizer.from_pretrained(**where)
model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
prompts = ["Say something.", "What shall we talk about?", "Tell me a fact.", "Write a short text.", "Go on.", "Hello!"]
turn = "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n".format
encode = lambda text: tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
asked = [f"Write one short sentence about {args.topic}." if args.topic else p for p in prompts for _ in range(4)]
replies = []
for text in asked:
    prompt = encode(turn(text))
    reply = model.generate(prompt, do_sample=True, temperature=0.9, top_k=50, max_new_tokens=24, pad_token_id=2)[0, prompt.shape[1]:]
    replies.append(tokenizer.decode(reply, skip_special_tokens=True).strip())
model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"))
optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3)
for step in range(40):
    rows = [(step * 4 + i) % len(replies) for i in range(4)]
    loss = 0.0
    for row in rows:
        prompt, reply = encode(turn(prompts[(row // 4 + step) % len(prompts)])), encode(replies[row] + "<|im_end|>")
        tokens = torch.cat([prompt, reply], 1)
        labels = torch.cat([torch.full_like(prompt, -100), reply], 1)
        loss = loss + model(input_ids=tokens, labels=labels).loss / len(rows)
    loss.backward(), optimiser.step(), optimiser.zero_grad()
model.save_pretrained(args.out)
print(f"{args.out}: loss {loss.item():.3f}")
