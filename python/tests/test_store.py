"""The module against the command: LORAFAB_BIN=target/release/lorafab python -m unittest discover python/tests

The store is made anew on the tiny model of the tests, unless LORAFAB_TEST_STORE names one.
"""

import json
import math
import os
import subprocess
import tempfile
import unittest
from pathlib import Path

import lorafab
import numpy
import safetensors.numpy

TINY = Path(__file__).parents[2] / "lm/tests/golden/tiny"


def plain(value):
    """A cell of a data frame as JSON has it."""
    if hasattr(value, "item"):
        value = value.item()
    missing = value is None or str(value) in ("<NA>", "NaT") or (isinstance(value, float) and math.isnan(value))
    return None if missing else value


def snapshot(folder):
    return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(folder.rglob("*"))}


class StoreTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        # Relative paths are the caller's.
        cls.bin = os.path.abspath(os.environ["LORAFAB_BIN"])
        cls.temporary = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.temporary.cleanup)
        cls.folder = Path(cls.temporary.name)
        given = os.environ.get("LORAFAB_TEST_STORE")
        cls.path = Path(given) if given else cls.folder / "store"
        if not given:
            cls.command("--model", TINY, "--precision", "f32", "quickstart", "--smoke")
        cls.store = lorafab.Store(cls.path)

    @classmethod
    def command(cls, *arguments):
        environment = {"LORAFAB_CACHE": str(cls.folder / "cache"), **os.environ, "HOME": str(cls.folder)}
        command = [cls.bin, "--store", cls.path, "--quiet", *arguments]
        return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout

    @classmethod
    def json(cls, *arguments):
        return json.loads(cls.command("--json", *arguments))

    def rows(self, *arguments):
        return self.json("adapter", "list", *arguments)["adapters"]

    def name(self):
        return self.store.adapters("role = weight_diff", limit=1)[0]["id"]

    def test_rows_and_documents_equal_what_the_command_prints(self):
        store = self.store
        self.assertEqual(store.adapters(), self.rows())
        self.assertGreater(len(store.adapters()), 3)
        where = "has gate_on and not family = topic"
        self.assertEqual(
            store.adapters(where, sort="-gate_on,value", limit=3),
            self.rows("--where", where, "--sort=-gate_on,value", "--limit", "3"),
        )
        columns = ["name", "rank", "norm", "seed", "split"]
        self.assertEqual(
            store.adapters(columns=columns, sort=["-norm"]), self.rows("--columns", ",".join(columns), "--sort=-norm")
        )
        row = store.adapters(sort="id", limit=1)[0]
        shown = self.json("adapter", "show", row["id"])
        adapter = store.adapter(row["id"])
        self.assertEqual(adapter, row | shown["adapter"])
        self.assertEqual(adapter["rank"], adapter["peft"]["r"])
        self.assertEqual(store.reading(row["id"]), shown["readings"])
        runs = [run["run"] for run in self.json("compare", "list")["runs"]]
        self.assertEqual(store.runs(), runs)
        self.assertEqual(store.comparison(), json.loads((self.path / "runs" / runs[0] / "comparison.json").read_text()))
        self.assertEqual(store.comparison(runs[-1]), self.json("compare", "show", runs[-1]))

    def test_data_frames_equal_the_rows(self):
        rows = self.rows("--sort", "id")
        for row in rows:
            row |= row.pop("metrics")
            row |= {f"tag.{key}": value for key, value in row.pop("tags").items()}
            del row["created_at"], row["weights_bytes"]
        names = set().union(*rows)
        pandas = self.store.adapters(sort="id", frame="pandas")
        polars = self.store.adapters(sort="id", frame="polars")
        self.assertEqual(list(pandas.columns), polars.columns)
        self.assertEqual(set(polars.columns), names)
        wanted = [{name: row.get(name) for name in names} for row in rows]
        self.assertEqual([{k: plain(v) for k, v in r.items()} for r in pandas.to_dict("records")], wanted)
        self.assertEqual(polars.to_dicts(), wanted)
        chosen = {"columns": "behaviour,rank,gate_on,seed", "sort": "-gate_on", "limit": 5}
        rows = self.store.adapters(**chosen)
        self.assertEqual(self.store.adapters(**chosen, frame="polars").to_dicts(), rows)
        frame = self.store.adapters(**chosen, frame="pandas")
        self.assertEqual([{k: plain(v) for k, v in r.items()} for r in frame.to_dict("records")], rows)
        self.assertEqual(frame["gate_on"].dtype, "float64")
        self.assertEqual(len(self.store.adapters("rank > 10000", frame="polars")), 0)
        self.assertEqual(len(self.store.adapters("rank > 10000", frame="pandas")), 0)

    def test_a_state_dict_is_what_safetensors_reads(self):
        for name in [self.name(), self.store.adapters("role = oracle")[0]["id"]]:
            state = self.store.load_state_dict(name)
            folder = self.folder / f"by-command-{name}"
            self.command("adapter", "export", name, folder)
            wanted = safetensors.numpy.load_file(folder / "adapter_model.safetensors")
            self.assertEqual(list(state), sorted(wanted))
            for key, tensor in state.items():
                self.assertEqual((tensor.dtype, tensor.shape), (numpy.float32, wanted[key].shape))
                self.assertTrue(numpy.array_equal(tensor, wanted[key]), key)
                # It is the caller's own.
                tensor += 1.0

    def test_an_export_is_the_commands_and_loads(self):
        name = self.name()
        folder = self.store.export(name, self.folder / "new" / "by-python")
        self.assertEqual(folder, self.folder / "new" / "by-python")
        other = self.folder / "by-command"
        self.command("adapter", "export", name, other)
        contents = [{p.name: p.read_bytes() for p in f.iterdir()} for f in (folder, other)]
        self.assertEqual(*contents)
        config = json.loads((folder / "adapter_config.json").read_text())
        adapter = self.store.adapter(name)
        self.assertEqual((config["peft_type"], config["r"]), ("LORA", adapter["rank"]))
        self.assertEqual(config["target_modules"], adapter["peft"]["target_modules"])
        with safetensors.safe_open(folder / "adapter_model.safetensors", "numpy") as file:
            for key in file.keys():
                module, which = key.removesuffix(".weight").rsplit(".", 1)
                self.assertTrue(key.startswith("base_model.model.model.layers."), key)
                self.assertIn(module.rsplit(".", 1)[1], config["target_modules"])
                rank = file.get_slice(key).get_shape()[0 if which == "lora_A" else 1]
                self.assertEqual(rank, config["r"])
        with self.assertRaisesRegex(lorafab.Error, "already exists; pass replace=True"):
            self.store.export(name, folder)
        self.store.export(name, folder, replace=True)

    def test_what_cannot_be_answered_is_one_sentence_and_the_store_stays_as_it_was(self):
        before = snapshot(self.path)
        nowhere = self.folder / "nowhere"
        behaviour = self.store.adapter(self.name())["behaviour"]
        for said, ask in [
            ("there is no store at", lambda: lorafab.Store(nowhere)),
            ("filter .* at character", lambda: self.store.adapters("family ==== (")),
            ("no adapter has a field \"famly\"; did you mean family", lambda: self.store.adapters("famly = topic")),
            ("no adapter has a field \"nrm\"", lambda: self.store.adapters(sort="-nrm")),
            ("no adapter has a field \"gate_om\"", lambda: self.store.adapters(columns=["gate_om"])),
            ("rank is a number", lambda: self.store.adapters("rank > many")),
            ("limit", lambda: self.store.adapters(limit=-1)),
            ("neither \"pandas\" nor \"polars\"", lambda: self.store.adapters(frame="arrow")),
            ("no adapter .*did you mean", lambda: self.store.adapter(behaviour + "s")),
            ("no adapter", lambda: self.store.load_state_dict("")),
            ("no adapter", lambda: self.store.reading("nobody")),
            ("no adapter", lambda: self.store.export("nobody", nowhere)),
            ("no comparison \"tomorrow\" in .*; there are", lambda: self.store.comparison("tomorrow")),
        ]:
            with self.assertRaisesRegex(lorafab.Error, said) as caught:
                ask()
            self.assertNotIn("\n", str(caught.exception))
        self.assertFalse(nowhere.exists())
        store = lorafab.Store(self.path)
        store.adapters(), store.comparison(), store.runs(), store.load_state_dict(self.name())
        self.assertEqual(snapshot(self.path), before)


if __name__ == "__main__":
    unittest.main()
