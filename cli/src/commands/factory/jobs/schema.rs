//! The schema of a file of jobs. It is put together as `parse` takes a job apart: what is common, `kind`, and what belongs to the kind.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use super::{Adapters, Common, Comparison, Intervention, MOST_JOBS};

/// A file of jobs.
pub(crate) struct Jobs;

impl JsonSchema for Jobs {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Jobs".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let kinds = [
            of_kind::<Adapters>(generator, "adapters"),
            of_kind::<Intervention>(generator, "intervention"),
            of_kind::<Comparison>(generator, "comparison"),
        ];
        json_schema!({
            "type": "object",
            "properties": {
                "schema": {"const": "jobs/1", "description": "`jobs/1`."},
                "job": {"type": "array", "maxItems": MOST_JOBS, "items": {"oneOf": kinds},
                    "description": "The jobs; one comes after those that it waits for."},
            },
            "required": ["schema", "job"],
            "additionalProperties": false,
        })
    }
}

/// A job of one kind.
fn of_kind<W: JsonSchema>(generator: &mut SchemaGenerator, kind: &str) -> Value {
    let mut job = Common::<()>::json_schema(generator).to_value();
    let own = W::json_schema(generator).to_value();
    job["description"] = own["description"].clone();
    let keys = job["properties"].as_object_mut().unwrap();
    keys.remove("work");
    keys.extend(own["properties"].as_object().unwrap().clone());
    keys.insert("kind".into(), json!({"const": kind, "description": "What the job does."}));
    let required = [&job["required"], &own["required"]].into_iter().flat_map(|r| r.as_array().unwrap());
    let required: Vec<Value> = required.filter(|r| *r != "work").cloned().chain([json!("kind")]).collect();
    job["required"] = required.into();
    job
}

/// Whether a text is a file of jobs as far as it can be told without a store.
pub(crate) fn parses(text: &str) -> bool {
    super::parse(std::path::Path::new("jobs.toml"), text).is_ok()
}
