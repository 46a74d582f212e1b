//! `index.parquet`: the lines of `index.jsonl` as one table.
//!
//! What differs from adapter to adapter becomes columns of its own, empty where an adapter has no such key: the metric `gate_on` is
//! the column `metric_gate_on`, and so with `tag_` and `lineage_`. MAP columns would be nearer to the JSON, but pandas shows them as
//! lists of pairs and `datasets` reads none. The bytes depend on nothing but the lines.

use std::collections::BTreeSet;
use std::sync::Arc;

use parquet::basic::{LogicalType, Repetition, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::{ParquetError, Result};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::types::Type;
use serde_json::Value;

/// The columns that every data set has, with what they hold.
pub(super) const COLUMNS: [(&str, Kind, &str); 15] = [
    ("id", Kind::Text, "identity of the adapter: digest of what it was made from and of its files"),
    ("folder", Kind::Text, "where it lies, as a folder that PEFT loads"),
    ("behaviour", Kind::Text, "what it was trained to do, or the reader's name"),
    ("family", Kind::Text, "family of behaviours, or kind of reader"),
    ("value", Kind::Text, "the label within the family"),
    ("category", Kind::Text, "category of the label"),
    ("split", Kind::Text, "split of the label: train, validation, test_value or test_category"),
    ("role", Kind::Text, "weight_diff (carries a behaviour, or as a negative none), dit_adapter or oracle"),
    ("status", Kind::Text, "what the gate said: learned, weak, failed, not_applicable or untested"),
    ("rank", Kind::Whole, "rank of the LoRA"),
    ("lora_alpha", Kind::Number, "numerator of its scaling lora_alpha / rank"),
    (
        "base_model",
        Kind::Text,
        "the model it belongs to, as it is found by: a repository on the Hub, or a folder",
    ),
    ("weights_blake3", Kind::Text, "BLAKE3 of adapter_model.safetensors"),
    ("weights_bytes", Kind::Whole, "size of that file"),
    ("parents", Kind::Texts, "ids of adapters it was made from"),
];

/// Objects of a line whose keys become columns, with the prefix of those.
pub(super) const SPREAD: [(&str, &str, Kind); 3] =
    [("tags", "tag_", Kind::Text), ("metrics", "metric_", Kind::Number), ("lineage", "lineage_", Kind::Text)];

/// What a column holds; all but lists may be null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Whole,
    Number,
    Texts,
}

struct Column<'a> {
    name: String,
    kind: Kind,
    cells: Vec<&'a Value>,
}

/// The file.
pub(super) fn table(lines: &[Value]) -> Result<Vec<u8>> {
    let mut columns: Vec<Column<'_>> = COLUMNS
        .iter()
        .map(|(name, kind, _)| Column {
            name: (*name).into(),
            kind: *kind,
            cells: lines.iter().map(|l| &l[*name]).collect(),
        })
        .collect();
    for (object, prefix, kind) in SPREAD {
        columns.extend(keys(lines, object).into_iter().map(|key| Column {
            name: format!("{prefix}{key}"),
            kind,
            cells: lines.iter().map(|l| &l[object][key]).collect(),
        }));
    }
    let fields = columns.iter().map(|c| Ok(Arc::new(field(c)?))).collect::<Result<_>>()?;
    let schema = Type::group_type_builder("adapters").with_fields(fields).build()?;
    // By default the crate's version would be in the file.
    let properties = WriterProperties::builder().set_created_by("lorafab".into()).build();
    let mut file = SerializedFileWriter::new(Vec::new(), Arc::new(schema), Arc::new(properties))?;
    let mut group = file.next_row_group()?;
    for column in &columns {
        let mut writer = group.next_column()?.ok_or_else(|| ParquetError::EOF(column.name.clone()))?;
        write(column, &mut writer)?;
        writer.close()?;
    }
    group.close()?;
    file.into_inner()
}

/// The keys that an object of the lines has anywhere.
pub(super) fn keys<'a>(lines: &'a [Value], object: &str) -> BTreeSet<&'a String> {
    lines.iter().filter_map(|l| l[object].as_object()).flat_map(serde_json::Map::keys).collect()
}

fn field(column: &Column<'_>) -> Result<Type> {
    let text = |name: &str, repetition| {
        Type::primitive_type_builder(name, Physical::BYTE_ARRAY)
            .with_logical_type(Some(LogicalType::String))
            .with_repetition(repetition)
            .build()
    };
    let number = |physical| {
        Type::primitive_type_builder(&column.name, physical).with_repetition(Repetition::OPTIONAL).build()
    };
    match column.kind {
        Kind::Text => text(&column.name, Repetition::OPTIONAL),
        Kind::Whole => number(Physical::INT64),
        Kind::Number => number(Physical::DOUBLE),
        Kind::Texts => {
            let list = Type::group_type_builder("list")
                .with_repetition(Repetition::REPEATED)
                .with_fields(vec![Arc::new(text("element", Repetition::REQUIRED)?)])
                .build()?;
            Type::group_type_builder(&column.name)
                .with_logical_type(Some(LogicalType::List))
                .with_repetition(Repetition::REQUIRED)
                .with_fields(vec![Arc::new(list)])
                .build()
        }
    }
}

fn write(column: &Column<'_>, writer: &mut SerializedColumnWriter<'_>) -> Result<()> {
    let cells = &column.cells;
    match column.kind {
        Kind::Text => nullable::<ByteArrayType>(writer, cells, |v| v.as_str().map(ByteArray::from)),
        Kind::Whole => nullable::<Int64Type>(writer, cells, Value::as_i64),
        Kind::Number => nullable::<DoubleType>(writer, cells, Value::as_f64),
        Kind::Texts => {
            let (mut values, mut defined, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
            for cell in cells {
                let before = values.len();
                for text in cell.as_array().into_iter().flatten().filter_map(Value::as_str) {
                    repeated.push(i16::from(values.len() > before));
                    defined.push(1);
                    values.push(ByteArray::from(text));
                }
                // An empty list is a place without a value.
                if values.len() == before {
                    repeated.push(0);
                    defined.push(0);
                }
            }
            writer.typed::<ByteArrayType>().write_batch(&values, Some(&defined), Some(&repeated)).map(drop)
        }
    }
}

fn nullable<T: DataType>(
    writer: &mut SerializedColumnWriter<'_>,
    cells: &[&Value],
    read: impl Fn(&Value) -> Option<T::T>,
) -> Result<()> {
    let read: Vec<Option<T::T>> = cells.iter().map(|c| read(c)).collect();
    let defined: Vec<i16> = read.iter().map(|v| i16::from(v.is_some())).collect();
    let values: Vec<T::T> = read.into_iter().flatten().collect();
    writer.typed::<T>().write_batch(&values, Some(&defined), None).map(drop)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::Field;

    use super::*;
    use crate::tests::new_adapter;
    use registry::{Filter, NewAdapter, Store};

    /// A cell as the JSON that it stands for.
    fn plain(field: &Field) -> Value {
        match field {
            Field::Null => Value::Null,
            Field::Str(text) => text.as_str().into(),
            Field::Long(n) => (*n).into(),
            Field::Double(x) => (*x).into(),
            Field::ListInternal(list) => list.elements().iter().map(plain).collect(),
            other => panic!("a column of another type: {other:?}"),
        }
    }

    /// Rows as index.jsonl has them, made of nothing but the Parquet file.
    fn rows(path: &Path) -> Vec<Value> {
        let file = SerializedFileReader::new(std::fs::File::open(path).unwrap()).unwrap();
        let rows = file.get_row_iter(None).unwrap().map(|row| {
            let mut line = serde_json::json!({"tags": {}, "metrics": {}, "lineage": {}});
            for (name, field) in row.unwrap().get_column_iter() {
                let value = plain(field);
                match SPREAD.iter().find_map(|(o, p, _)| Some((o, name.strip_prefix(p)?))) {
                    Some((object, key)) if !value.is_null() => line[*object][key] = value,
                    Some(_) => {}
                    None => line[name.as_str()] = value,
                }
            }
            line
        });
        rows.collect()
    }

    #[test]
    fn both_indexes_say_the_same_and_the_same_adapters_give_the_same_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(&folder.path().join("store")).unwrap();
        let text = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        // What could be lost: keys that some lack, odd keys, an empty text beside none, lists of 0, 1 and 2, a float that is no decimal.
        let adapters = [
            NewAdapter {
                tags: text(&[("note", ""), ("a.b", "naïve \"x\"")]),
                metrics: [("gate_on".to_owned(), 0.1 + 0.2), ("tokens".to_owned(), 12.0)].into(),
                ..new_adapter("topic/cats", vec![1; 3])
            },
            NewAdapter { split: None, ..new_adapter("topic/dogs", vec![2]) },
            NewAdapter {
                metrics: [("gate_on".to_owned(), -1e-300)].into(),
                lineage: text(&[("base", "abc")]),
                ..new_adapter("topic/eels", vec![3])
            },
        ];
        let mut ids = Vec::new();
        for new in adapters {
            let parents = ids.clone();
            ids.push(store.commit_adapter(NewAdapter { parents, ..new }).unwrap().id);
        }
        let records = store.adapters(&Filter::all()).unwrap();
        let [one, two] = ["one", "two"].map(|name| {
            let set = folder.path().join(name);
            super::super::export(&store, &records, &set).unwrap();
            ["index.jsonl", "index.parquet", "README.md"].map(|f| fs_err::read(set.join(f)).unwrap())
        });
        assert_eq!(one, two);
        let [lines, _, card] = one.map(|b| String::from_utf8_lossy(&b).into_owned());
        let lines: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 3);
        assert_eq!(lines[2]["parents"].as_array().unwrap().len(), 2);
        assert_eq!(rows(&folder.path().join("one/index.parquet")), lines);
        for (name, ..) in COLUMNS {
            assert!(card.contains(&format!("| `{name}` |")), "{name} is not in the card: {card}");
        }
        assert!(card.contains("| `metric_gate_on` |") && card.contains("| `lineage_base` |"), "{card}");
    }
}
