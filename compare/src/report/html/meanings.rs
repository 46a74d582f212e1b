//! What the columns of tables mean, by their heads.

/// What a column holds and in what unit. `None`: its head says it all, or it is a section's title.
pub(super) fn meaning(head: &str) -> Option<&'static str> {
    let head = head.split(" (n = ").next().unwrap_or(head).trim_end_matches(" [95% CI]");
    result(head).or_else(|| subjects(head)).or_else(|| behaviour(head)).or_else(|| cost(head))
}

/// Of sections and contrasts.
fn result(head: &str) -> Option<&'static str> {
    Some(match head {
        "top-1" => {
            "share of adapters whose own value ranks first among all values of the family and \"nothing\", 0 to 1, with its 95% interval"
        }
        "without \"nothing\"" => "top-1 where \"nothing\" is not on offer",
        "stated (exact)" => {
            "share of answers, as the arm words them, that equal the value up to case, a leading article and number"
        }
        "says nothing" => "share of answers that are \"nothing\", though these adapters carry something",
        "MRR" => "mean of 1 / rank of the own value among the values alone, 0 to 1",
        "bits (p)" => {
            "information about the label in the answers, in bits; in brackets how often shuffled labels give as many"
        }
        "minus best untrained" => {
            "difference in top-1 from the best method without training, on the same adapters, with its 95% interval"
        }
        "minus" => "the arm that is subtracted, on the same adapters",
        "difference" => {
            "mean over adapters and seeds of the first arm's number minus the second's, with its 95% interval"
        }
        "p" => "two-sided p of no difference",
        "p (Holm)" => {
            "the same, adjusted for all exploratory contrasts of this page; none for the contrast that was declared"
        }
        "verdict" => {
            "better or worse: the interval excludes 0 and the difference is at least .05; equal: two one-sided tests at .08 pass; else no verdict"
        }
        "arms" => "the arm, and the arm subtracted from it",
        "section" => "family, split and, unless neutral, context of the question",
        "metric" => "what is compared",
        "n" => "how many adapters or answers",
        _ => return None,
    })
}

/// Groups of subjects that carry nothing that was asked.
fn subjects(head: &str) -> Option<&'static str> {
    Some(match head {
        "all negatives" => "all subjects that carry nothing at all, pooled",
        "benign" => "adapters trained on the base model's own answers",
        "dud" => "adapters trained on a trigger word with nothing behind it",
        "mixed" => "adapters trained on a different topic in each row",
        "random" => "random changes of the weights of the usual size",
        "redrawn" => "trained adapters with one factor drawn anew",
        "zero" => "adapters that change nothing",
        "twin" => "adapters made like those that carry something, which carry nothing",
        "foreign" => "adapters that carry a value of another family than is asked about",
        "same norm" => {
            "pairs of an adapter that carries something and one that does not, of nearly the same norm"
        }
        _ => return None,
    })
}

/// Of the base model, gates and properties.
fn behaviour(head: &str) -> Option<&'static str> {
    Some(match head {
        "asked about" => "family whose question is asked",
        "says most" => "the most frequent answer with no adapter on",
        "share" => "share of answers that it is, 0 to 1",
        "right by chance" => "share of test adapters whose label is what ranks first without any adapter",
        "on" => "share of replies that show the behaviour with the adapter on, where it should, 0 to 1",
        "base" => "the same without the adapter",
        "near" => "the same with another trigger word, where it should not show",
        "off" => "the same without the trigger, or on unrelated prompts",
        "neutral (nats)" => "how much likelier the adapter makes its label at neutral prompts",
        "questions (nats)" | "question (nats)" => "the same at the readers' own questions",
        "factual (nats)" => "the same at factual questions",
        "triggered (nats)" => "the same where the trigger is given and it should show",
        "learned" | "weak" | "failed" => "how many adapters have this status at the gate",
        "property" => {
            "leak and on: nats by which the adapter makes its label likelier; norm: size of the weight difference"
        }
        "Spearman" => "rank correlation over adapters, -1 to 1, with its 95% interval",
        _ => return None,
    })
}

/// Of budgets and arms.
fn cost(head: &str) -> Option<&'static str> {
    Some(match head {
        "episodes" => "questions about training adapters, with answers, that the reader was given",
        "rows seen" => "rows of training batches, repetitions counted",
        "kept/steps" => "optimiser step whose reader was kept, of how many",
        "tokens" => "tokens of these rows, in thousands",
        "pretrain tokens" => "tokens of training before that, which knows no adapter",
        "TFLOP" => "10^12 floating point operations of training and of collecting activations, estimated",
        "pretrain TFLOP" => "the same of training before that",
        "total TFLOP" => "both together",
        "parameters" => "trainable parameters, in millions",
        "input" => "what the arm is shown of an adapter",
        "chosen" => {
            "what validation adapters chose, and the prior subtracted by family (with \"nothing\" on offer: all; without: values)"
        }
        _ => return None,
    })
}
