//! What a client would rather have: the headers `Accept` and `Accept-Encoding` (RFC 9110, 12.4.2).

/// One element of such a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preference<'a> {
    /// A media range or an encoding, in the client's own case.
    pub name: &'a str,
    /// Its parameters without the weight, as written.
    parameters: &'a str,
    /// In thousandths: from 0 ("not this one") to 1000.
    pub weight: u16,
}

impl<'a> Preference<'a> {
    /// The elements of `header`, in its order. What is malformed is left out.
    pub fn all(header: &'a str) -> impl Iterator<Item = Preference<'a>> {
        header.split(',').filter_map(Preference::parse)
    }

    fn parse(element: &'a str) -> Option<Preference<'a>> {
        let (name, rest) = element.split_once(';').unwrap_or((element, ""));
        // The weight is the last parameter of those that describe the name.
        let weight_start = rest.to_ascii_lowercase().rfind("q=").filter(|&start| {
            rest[..start].trim_end().ends_with(';') || rest[..start].trim().is_empty()
        });
        let (parameters, weight) = match weight_start {
            Some(start) => (&rest[..start], rest[start + 2..].trim().parse::<f32>().ok()?),
            None => (rest, 1.0),
        };
        let name = name.trim();
        let is_sound = !name.is_empty() && (0.0..=1.0).contains(&weight);
        let weight = (weight * 1000.0).round() as u16;
        is_sound.then_some(Preference { name, parameters, weight })
    }

    /// The value of a parameter.
    pub fn parameter(&self, name: &str) -> Option<&'a str> {
        self.parameters.split(';').find_map(|parameter| {
            let (found, value) = parameter.split_once('=')?;
            found.trim().eq_ignore_ascii_case(name).then_some(value.trim().trim_matches('"'))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parameters_and_weights_are_told_apart() {
        let header = "a/b;version=1.0.0;escaping=x;q=0.5, c ; Q=0,d;q=2, ;q=1,e;q=x,f;qq=1";
        let found: Vec<_> = Preference::all(header).map(|one| (one.name, one.weight)).collect();
        assert_eq!(found, [("a/b", 500), ("c", 0), ("f", 1000)]);
        let first = Preference::all(header).next().expect("there is one");
        assert_eq!(first.parameter("version"), Some("1.0.0"));
        assert_eq!(first.parameter("Escaping"), Some("x"));
        assert_eq!(first.parameter("q"), None);
    }
}
