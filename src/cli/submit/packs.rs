//! What is to be submitted, in packs a server takes: one task, `{"tasks": […]}`, or one task a line of any length.
//!
//! Law: tasks keep their order, and lines are read as they are needed, never all at once.

use std::collections::VecDeque;
use std::io::BufRead;

use serde_json::Value;

use crate::cli::failure::Failure;
use crate::cli::paper::text;
use crate::wire::submission::{MOST_BODY, MOST_TASK, MOST_TASKS};

/// Tasks that are sent together, each as JSON.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Pack {
    pub(crate) tasks: Vec<String>,
    pub(crate) ids: Vec<String>,
}

impl Pack {
    /// Puts a task behind the others.
    pub(crate) fn push(&mut self, task: &Value) {
        self.ids.push(text(task, "id").to_owned());
        self.tasks.push(task.to_string());
    }

    /// The request's body. A list even of one, so that every answer has the same form.
    pub(crate) fn body(&self) -> String {
        format!("{{\"tasks\":[{}]}}", self.tasks.join(","))
    }

    /// The tasks at these places.
    pub(crate) fn only(&self, places: &[usize]) -> Self {
        Self {
            tasks: places.iter().map(|place| self.tasks[*place].clone()).collect(),
            ids: places.iter().map(|place| self.ids[*place].clone()).collect(),
        }
    }
}

/// Reads packs from a source.
pub(super) struct Packs<R> {
    source: R,
    /// How the source is called in messages.
    name: String,
    line: usize,
    /// Tasks that were read and stand in no pack yet.
    ahead: VecDeque<Value>,
}

impl<R: BufRead> Packs<R> {
    /// The packs of `source`, which messages call `name`.
    pub(super) fn new(source: R, name: &str) -> Result<Self, Failure> {
        let mut packs = Self { source, name: name.to_owned(), line: 0, ahead: VecDeque::new() };
        packs.begin()?;
        Ok(packs)
    }

    /// The next pack; `None` when all have been read.
    pub(super) fn next(&mut self) -> Result<Option<Pack>, Failure> {
        let mut pack = Pack::default();
        let mut bytes = 0;
        while pack.tasks.len() < MOST_TASKS && bytes + MOST_TASK < MOST_BODY {
            let Some(task) = self.next_task()? else { break };
            pack.push(&task);
            bytes += pack.tasks.last().map_or(0, String::len) + 1;
        }
        Ok((!pack.tasks.is_empty()).then_some(pack))
    }

    /// Finds out in which form the source is written.
    fn begin(&mut self) -> Result<(), Failure> {
        let Some(first) = self.next_line()? else {
            return Err(Failure::Usage(format!("{} holds no task", self.name)));
        };
        let value = match serde_json::from_str(&first) {
            Ok(value) => value,
            // A first line that is no value by itself is the beginning of one value over many lines.
            Err(_) => {
                let mut text = first;
                self.source.read_to_string(&mut text).map_err(|why| self.unreadable(&why))?;
                serde_json::from_str(&text).map_err(|why| {
                    let why = format!("{} is neither JSON nor one task a line: {why}", self.name);
                    Failure::Usage(why)
                })?
            }
        };
        match value {
            Value::Object(mut whole) if whole.contains_key("tasks") => match whole.remove("tasks") {
                Some(Value::Array(tasks)) => self.ahead.extend(tasks),
                _ => return Err(Failure::Usage(format!("{}: \"tasks\" is no list", self.name))),
            },
            Value::Array(tasks) => self.ahead.extend(tasks),
            task => self.ahead.push_back(task),
        }
        Ok(())
    }

    fn next_task(&mut self) -> Result<Option<Value>, Failure> {
        if let Some(task) = self.ahead.pop_front() {
            return Ok(Some(task));
        }
        let Some(line) = self.next_line()? else { return Ok(None) };
        let task = serde_json::from_str(&line);
        task.map(Some)
            .map_err(|why| Failure::Usage(format!("{} line {}: no JSON: {why}", self.name, self.line)))
    }

    fn next_line(&mut self) -> Result<Option<String>, Failure> {
        let mut line = String::new();
        loop {
            line.clear();
            self.line += 1;
            let read = self.source.read_line(&mut line).map_err(|why| self.unreadable(&why))?;
            if read == 0 {
                return Ok(None);
            }
            if !line.trim().is_empty() {
                return Ok(Some(line));
            }
        }
    }

    fn unreadable(&self, why: &std::io::Error) -> Failure {
        Failure::Usage(format!("read {}: {why}", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Vec<String>>, String> {
        let mut packs = Packs::new(text.as_bytes(), "tasks.json").map_err(|why| why.to_string())?;
        let mut ids = Vec::new();
        while let Some(pack) = packs.next().map_err(|why| why.to_string())? {
            ids.push(pack.ids);
        }
        Ok(ids)
    }

    #[test]
    fn every_form_is_read_and_split_into_packs() {
        assert_eq!(read("{\"id\":\n\"a\"}"), Ok(vec![vec!["a".into()]]));
        assert_eq!(read("{\"id\":\"a\"}\n\n{\"id\":\"b\"}\n"), Ok(vec![vec!["a".into(), "b".into()]]));
        assert_eq!(
            read("{\"tasks\":[{\"id\":\"a\"},{\"id\":\"b\"}]}"),
            Ok(vec![vec!["a".into(), "b".into()]])
        );
        let many: String = (0..2_500).map(|number| format!("{{\"id\":\"t{number}\"}}\n")).collect();
        let sizes: Vec<usize> = read(&many).expect("it is legal").iter().map(Vec::len).collect();
        assert_eq!(sizes, [1_000, 1_000, 500]);
    }

    #[test]
    fn what_cannot_be_read_names_its_place() {
        assert!(read("{\"id\":\"a\"}\n{nonsense}\n").is_err_and(|why| why.contains("tasks.json line 2")));
        assert!(read("").is_err_and(|why| why.contains("holds no task")));
        assert!(read("nonsense").is_err_and(|why| why.contains("neither JSON")));
    }
}
