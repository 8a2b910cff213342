//! JSON as it stands in a payload: read once, its texts left where they are.
//!
//! Law: it says what `serde_json::Value` says of the same bytes, in the same words and in the same order: an object's
//! names are sorted, and of a name that stands there twice the last counts. Only a text with escapes is copied.

use std::borrow::Cow;
use std::fmt;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Number;

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub enum Json<'a> {
    Null,
    Flag(bool),
    Number(Number),
    Text(Cow<'a, str>),
    List(Vec<Json<'a>>),
    Object(Object<'a>),
}

/// Up to so many fields, looking at each is faster than halving: most names differ in length.
const FEW: usize = 16;
/// For how many fields room is made at once.
const USUAL: usize = 8;

/// The fields of an object, in the order of their names, each once.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Object<'a>(Vec<(Cow<'a, str>, Json<'a>)>);

impl<'a> Json<'a> {
    /// The text, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        if let Json::Text(text) = self { Some(text) } else { None }
    }

    /// The truth of it, if it is true or false.
    pub fn as_bool(&self) -> Option<bool> {
        if let Json::Flag(flag) = self { Some(*flag) } else { None }
    }

    /// The number, if it is whole and not negative.
    pub fn as_u64(&self) -> Option<u64> {
        if let Json::Number(number) = self { number.as_u64() } else { None }
    }

    /// The number, if it is whole.
    pub fn as_i64(&self) -> Option<i64> {
        if let Json::Number(number) = self { number.as_i64() } else { None }
    }

    /// The number, if it is one.
    pub fn as_f64(&self) -> Option<f64> {
        if let Json::Number(number) = self { number.as_f64() } else { None }
    }

    /// The values of a list, if it is one.
    pub fn as_list(&self) -> Option<&[Json<'a>]> {
        if let Json::List(list) = self { Some(list) } else { None }
    }

    /// The fields, if it is an object.
    pub fn as_object(&self) -> Option<&Object<'a>> {
        if let Json::Object(object) = self { Some(object) } else { None }
    }

    /// Whether it is `null`.
    pub fn is_null(&self) -> bool {
        matches!(self, Json::Null)
    }
}

impl<'a> Object<'a> {
    /// The value under `name`.
    pub fn get(&self, name: &str) -> Option<&Json<'a>> {
        if self.0.len() <= FEW {
            return self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value);
        }
        self.place(name).ok().map(|place| &self.0[place].1)
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Json<'a>> {
        self.place(name).ok().map(|place| &mut self.0[place].1)
    }

    /// Puts `value` in place of what stood under `name`.
    pub fn insert(&mut self, name: impl Into<Cow<'a, str>>, value: impl Into<Json<'a>>) {
        let name = name.into();
        match self.place(&name) {
            Ok(place) => self.0[place].1 = value.into(),
            Err(place) => self.0.insert(place, (name, value.into())),
        }
    }

    /// Takes out what stood under `name`.
    pub fn remove(&mut self, name: &str) -> Option<Json<'a>> {
        self.place(name).ok().map(|place| self.0.remove(place).1)
    }

    /// Keeps only the fields whose values `keep` wants.
    pub fn retain(&mut self, keep: impl Fn(&Json<'a>) -> bool) {
        self.0.retain(|(_, value)| keep(value));
    }

    /// Every field, in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Json<'a>)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Fields as they came.
    fn of(mut fields: Vec<(Cow<'a, str>, Json<'a>)>) -> Self {
        if !fields.is_sorted_by(|(before, _), (after, _)| before < after) {
            // Stable: what came last stands last among those of one name.
            fields.sort_by(|(a, _), (b, _)| a.cmp(b));
            fields.dedup_by(|later, earlier| {
                let same = later.0 == earlier.0;
                if same {
                    std::mem::swap(later, earlier);
                }
                same
            });
        }
        Self(fields)
    }

    fn place(&self, name: &str) -> Result<usize, usize> {
        self.0.binary_search_by(|(known, _)| (**known).cmp(name))
    }
}

impl<'a> From<&'a str> for Json<'a> {
    fn from(text: &'a str) -> Self {
        Json::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Json<'_> {
    fn from(text: String) -> Self {
        Json::Text(Cow::Owned(text))
    }
}

impl From<u64> for Json<'_> {
    fn from(number: u64) -> Self {
        Json::Number(number.into())
    }
}

impl<'a> From<Object<'a>> for Json<'a> {
    fn from(object: Object<'a>) -> Self {
        Json::Object(object)
    }
}

/// Compact JSON.
impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).expect("names are texts"))
    }
}

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Json::Null => serializer.serialize_unit(),
            Json::Flag(flag) => serializer.serialize_bool(*flag),
            Json::Number(number) => number.serialize(serializer),
            Json::Text(text) => serializer.serialize_str(text),
            Json::List(list) => serializer.collect_seq(list),
            Json::Object(object) => object.serialize(serializer),
        }
    }
}

impl Serialize for Object<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len()))?;
        for (name, value) in self.iter() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Json<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reading)
    }
}

struct Reading;

impl<'de> Visitor<'de> for Reading {
    type Value = Json<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any valid JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Json<'de>, E> {
        Ok(Json::Flag(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Json<'de>, E> {
        Ok(Json::Number(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Json<'de>, E> {
        Ok(Json::Number(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Json<'de>, E> {
        Ok(Number::from_f64(number).map_or(Json::Null, Json::Number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Json<'de>, E> {
        Ok(text.into())
    }

    fn visit_str<E>(self, text: &str) -> Result<Json<'de>, E> {
        Ok(text.to_owned().into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json<'de>, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = seq.next_element()? {
            list.push(value);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json<'de>, A::Error> {
        let mut fields = Vec::new();
        while let Some((Name(name), value)) = map.next_entry()? {
            if fields.is_empty() {
                fields.reserve(USUAL);
            }
            fields.push((name, value));
        }
        Ok(Json::Object(Object::of(fields)))
    }
}

/// The name of a field.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reading;
        impl<'de> Visitor<'de> for Reading {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Reading)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    /// What both say of some bytes: their value as text, or what is wrong with them.
    fn both(body: &[u8]) -> [Result<String, String>; 2] {
        let value = serde_json::from_slice::<Value>(body).map(|value| value.to_string());
        let json = serde_json::from_slice::<Json<'_>>(body).map(|json| json.to_string());
        [value.map_err(|why| why.to_string()), json.map_err(|why| why.to_string())]
    }

    #[test]
    fn it_says_what_a_value_says_of_the_same_bytes() {
        for body in [
            r#"{"b":1,"a":{"d":[],"c":null},"b":2}"#,
            r#"{"a":1,"b":2,"a":3,"c":4,"a":5}"#,
            r#" [ -1 , 1.0 , 1e400 , 1e-7 , 18446744073709551616 , -0 , 0.1 ] "#,
            r#"{"\u0061":"\ud83d\ude00\n","a":"\u00fc","é":"x"}"#,
            r#"{"a":"\ud800"}"#,
            r#"{"a":1,}"#,
            r#"{"a" 1}"#,
            "{\"a\":\"\u{1}\"}",
            "nul",
            "",
            "1 2",
        ] {
            let [value, json] = both(body.as_bytes());
            assert_eq!(json, value, "{body}");
        }
        let deep = "[".repeat(200) + &"]".repeat(200);
        let [value, json] = both(deep.as_bytes());
        assert_eq!(json, value);
        assert!(json.is_err(), "what is too deep is refused");
        assert_eq!(both(b"{\"a\":\"\xff\"}")[0], both(b"{\"a\":\"\xff\"}")[1]);
    }

    #[test]
    fn fields_are_put_and_taken_by_name() {
        let mut object = Object::default();
        for name in ["queue", "id", "tenant", "id"] {
            object.insert(name, format!("the {name}"));
        }
        assert_eq!(object.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["id", "queue", "tenant"]);
        assert_eq!(object.get("id").and_then(Json::as_str), Some("the id"));
        assert_eq!(object.remove("id"), Some("the id".into()));
        assert_eq!((object.remove("id"), object.len()), (None, 2));
        object.insert("id", Json::Null);
        object.retain(|value| !value.is_null());
        assert_eq!(object.get("id"), None);
    }

    /// Bytes that are mostly JSON: values with names that repeat, spaces, and now and then something cut off.
    fn body() -> impl Strategy<Value = String> {
        let leaf = prop_oneof![
            Just("null".to_owned()),
            any::<bool>().prop_map(|flag| flag.to_string()),
            any::<i64>().prop_map(|number| number.to_string()),
            any::<f64>().prop_map(|number| number.to_string()),
            any::<String>().prop_map(|text| Value::from(text).to_string()),
            "[-0-9.eE+]{1,8}",
            "\"[a-z\\\\u0-9\"]{0,8}\"",
        ];
        let value = leaf.prop_recursive(4, 24, 6, |inner| {
            let name = prop_oneof!["[a-d]{1}", "[a-z\\u{e0}-\\u{ff}]{0,3}"];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(|list| format!("[{}]", list.join(" , "))),
                prop::collection::vec((name, inner), 0..6).prop_map(|fields| {
                    let fields: Vec<String> =
                        fields.into_iter().map(|(name, value)| format!("\"{name}\" :{value}")).collect();
                    format!("{{{}}}", fields.join(","))
                }),
            ]
        });
        (value, prop::option::weighted(0.1, any::<prop::sample::Index>())).prop_map(|(text, cut)| match cut {
            Some(at) => text.chars().take(at.index(text.len() + 1)).collect(),
            None => text,
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        #[test]
        fn whatever_is_read_is_what_a_value_would_be(body in body()) {
            let [value, json] = both(body.as_bytes());
            prop_assert_eq!(json, value);
        }
    }
}
