//! What the real API refuses of a Job.

use serde_json::Value;

/// Why a Job may not be made.
pub fn job(job: &Value) -> Result<(), String> {
    let name = job["metadata"]["name"].as_str().unwrap_or_default();
    if !is_name(name) {
        return Err(format!("metadata.name: Invalid value: {name:?}: a lowercase RFC 1123 subdomain"));
    }
    let spec = &job["spec"];
    metadata(&job["metadata"])?;
    metadata(&spec["template"]["metadata"])?;
    numbers(spec)?;
    let pod = &spec["template"]["spec"];
    let policy = pod["restartPolicy"].as_str().unwrap_or("Always");
    if !matches!(policy, "Never" | "OnFailure") {
        return Err(format!("spec.template.spec.restartPolicy: Unsupported value: {policy:?}"));
    }
    if pod["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds < 1) {
        return Err("spec.template.spec.activeDeadlineSeconds: must be between 1 and 2147483647".to_owned());
    }
    for (key, value) in pod["nodeSelector"].as_object().into_iter().flatten() {
        label(key, value)?;
    }
    let container = &pod["containers"][0];
    if !is_name(container["name"].as_str().unwrap_or_default()) || !container["image"].is_string() {
        return Err("spec.template.spec.containers[0]: Required value: a name and an image".to_owned());
    }
    for variable in container["env"].as_array().into_iter().flatten() {
        let name = variable["name"].as_str().unwrap_or_default();
        if name.is_empty() || name.contains('=') || !name.is_ascii() {
            return Err(format!("spec.template.spec.containers[0].env[0].name: Invalid value: {name:?}"));
        }
    }
    for (name, amount) in container["resources"]["limits"].as_object().into_iter().flatten() {
        if amount.as_str().is_none_or(|amount| amount.starts_with('-') || amount == "0") {
            return Err(format!("spec.template.spec.containers[0].resources.limits[{name}]: Invalid value"));
        }
    }
    Ok(())
}

/// Why a Job may not be changed to this.
pub fn change(before: &Value, after: &Value) -> Result<(), String> {
    for field in ["template", "completions", "selector", "completionMode", "podFailurePolicy"] {
        if before["spec"][field] != after["spec"][field] {
            return Err(format!("spec.{field}: Invalid value: field is immutable"));
        }
    }
    job(after)
}

fn numbers(spec: &Value) -> Result<(), String> {
    for field in ["parallelism", "completions", "backoffLimit", "ttlSecondsAfterFinished"] {
        if spec[field].as_i64().is_some_and(|number| number < 0) {
            return Err(format!("spec.{field}: Invalid value: must be greater than or equal to 0"));
        }
    }
    match spec["activeDeadlineSeconds"].as_i64() {
        Some(seconds) if seconds < 1 => {
            Err("spec.activeDeadlineSeconds: Invalid value: must be greater than or equal to 1".to_owned())
        }
        _ => Ok(()),
    }
}

fn metadata(metadata: &Value) -> Result<(), String> {
    for (key, value) in metadata["labels"].as_object().into_iter().flatten() {
        label(key, value)?;
    }
    Ok(())
}

fn label(key: &str, value: &Value) -> Result<(), String> {
    let value = value.as_str().unwrap_or("\n");
    let name = key.rsplit('/').next().unwrap_or_default();
    if name.is_empty() || !is_word(name) {
        return Err(format!(
            "metadata.labels: Invalid value: {key:?}: name part must consist of alphanumeric characters"
        ));
    }
    if !value.is_empty() && !is_word(value) {
        return Err(format!("metadata.labels: Invalid value: {value:?}: must be no more than 63 characters"));
    }
    Ok(())
}

fn is_name(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty()
        && text.len() <= 63
        && text.chars().all(legal)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

fn is_word(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let edges = text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric());
    edges && text.len() <= 63 && text.chars().all(inner)
}
