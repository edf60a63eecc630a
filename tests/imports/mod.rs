//! What the files of a library import, read from their text.
//!
//! A simple reader of Rust. It rests on rustfmt's form, which CI holds the code to: an item ends at the first
//! line of its own indentation that closes it.

use std::collections::{BTreeMap, BTreeSet};

/// Texts by path.
pub type Files = BTreeMap<String, String>;

/// A module's path; that of lib.rs is empty.
pub type Module = Vec<String>;

/// One library: which of its files imports which. Tests are left out.
pub struct Library {
    /// All files, tests too.
    pub files: BTreeSet<String>,
    /// The files that are not tests.
    pub modules: BTreeMap<Module, String>,
    pub imports: Vec<Import>,
    /// Methods that a file gives to another file's type: who, on which line, which type, whose.
    pub methods: Vec<(String, usize, String, String)>,
    /// Modules that nobody here has to name: others do, or the linker, or they are methods of a type.
    pub entries: BTreeSet<Module>,
    /// By module and name: what a `use` there calls so.
    uses: BTreeMap<(Module, String), Vec<String>>,
}

pub struct Import {
    /// Who imports, on which line, what: the path as it stands there.
    pub file: String,
    pub line: usize,
    pub path: String,
    /// The file that has it. A `pub use` on the way there is looked through.
    pub from: String,
    /// It is such a `pub use`, which needs nothing of what it passes on.
    pub is_passed_on: bool,
}

impl Library {
    pub fn new(mut texts: Files) -> Library {
        let files = texts.keys().cloned().collect();
        let tests: Vec<Module> =
            texts.iter().flat_map(|(file, text)| test_modules(file, text)).collect();
        texts.retain(|file, _| !tests.iter().any(|test| module(file).starts_with(test)));
        let modules = texts.keys().map(|file| (module(file), file.clone())).collect();
        let mut library = Library {
            files,
            modules,
            imports: Vec::new(),
            methods: Vec::new(),
            entries: BTreeSet::new(),
            uses: BTreeMap::new(),
        };
        let mut named = Vec::new();
        let mut types = Vec::new();
        let mut public = BTreeSet::from([Module::new()]);
        let mut declared = public.clone();
        for (at, file) in &library.modules {
            let lines = code(&texts[file]);
            if lines.iter().any(|line| line.contains("link_section")) || adds_methods(&lines) {
                library.entries.insert(at.clone());
            }
            for line in lines.iter().filter(|line| line.ends_with(';')) {
                let Some(name) = declares(line, "mod").map(identifier) else { continue };
                declared.insert(child(at, name));
                if public.contains(at) && line.starts_with("pub mod ") {
                    public.insert(child(at, name));
                }
            }
            types.extend(types_with_methods(&lines).map(|(line, name)| (at.clone(), line, name)));
            named.extend(names(&lines).into_iter().map(|named| (at.clone(), named)));
        }
        library.entries.extend(public);
        library.entries.retain(|at| declared.contains(at));
        for (at, named) in &named {
            let name = named.name.clone().filter(|_| library.is_of_here(at, &named.path[0]));
            library.uses.extend(name.map(|name| ((at.clone(), name), named.path.clone())));
        }
        let import = |(at, named): (Module, Named)| {
            let file = library.modules[&at].clone();
            let from = library.file_of(&at, &named.path).filter(|from| **from != file)?.clone();
            let Named { line, written, is_passed_on, .. } = named;
            // Elsewhere one that passes something on may use it, too.
            let is_passed_on = is_passed_on && (file.ends_with("mod.rs") || file == "lib.rs");
            Some(Import { file, line, path: written, from, is_passed_on })
        };
        library.imports = named.into_iter().filter_map(import).collect();
        for (at, line, name) in types {
            let file = &library.modules[&at];
            if let Some(whose) =
                library.file_of(&at, std::slice::from_ref(&name)).filter(|whose| *whose != file)
            {
                library.methods.push((file.clone(), line, name, whose.clone()));
            }
        }
        library
    }

    /// Does a path in module `at` that begins so lead to something of this library?
    fn is_of_here(&self, at: &Module, first: &str) -> bool {
        matches!(first, "crate" | "self" | "super") || self.modules.contains_key(&child(at, first))
    }

    /// The file to which a path in module `at` leads, if it is one of these.
    fn file_of(&self, at: &Module, path: &[String]) -> Option<&String> {
        let mut here = if path[0] == "crate" { Module::new() } else { at.clone() };
        for (index, segment) in path.iter().enumerate() {
            let below = child(&here, segment);
            if segment == "super" {
                here.pop();
            } else if self.modules.contains_key(&below) {
                here = below;
            } else if let Some(whole) = self.uses.get(&(here.clone(), segment.clone())) {
                return self.file_of(&here, &[whole, &path[index + 1..]].concat());
            } else if !self.is_of_here(at, &path[0]) {
                return None;
            } else if !matches!(segment.as_str(), "crate" | "self") {
                break;
            }
        }
        self.modules.get(&here)
    }
}

/// The module that a file is.
pub fn module(file: &str) -> Module {
    let path = file.trim_end_matches(".rs");
    let path = path.strip_suffix("/mod").unwrap_or(path);
    path.split('/').filter(|name| *name != "lib").map(str::to_string).collect()
}

fn child(module: &Module, name: &str) -> Module {
    module.iter().cloned().chain([name.to_string()]).collect()
}

/// The modules of tests that a file declares.
fn test_modules(file: &str, text: &str) -> Vec<Module> {
    let lines: Vec<&str> = text.lines().collect();
    let tests = lines.windows(2).filter(|two| is_for_tests(two[0]) && two[1].ends_with(';'));
    let names = tests.filter_map(|two| declares(two[1], "mod"));
    names.map(|name| child(&module(file), identifier(name))).collect()
}

/// The types to which a file gives methods of their own (no trait's), with the lines.
fn types_with_methods(lines: &[&str]) -> impl Iterator<Item = (usize, String)> {
    let lines = lines.iter().zip(1..);
    lines.filter_map(|(line, number)| {
        let rest = line.strip_prefix("impl")?;
        let rest =
            if rest.starts_with('<') { rest.split_once("> ")?.1 } else { rest.strip_prefix(' ')? };
        (!rest.contains(" for ")).then(|| (number, identifier(rest).to_string()))
    })
}

/// Are there methods of a type that another file declares?
fn adds_methods(lines: &[&str]) -> bool {
    let types = lines.iter().filter_map(|line| line.strip_prefix("impl "));
    let mut names =
        types.map(|rest| identifier(rest.split_once(" for ").map_or(rest, |two| two.1)));
    let is_here = |name: &str| {
        let mut kinds = ["struct", "enum", "trait"].iter();
        kinds
            .any(|kind| lines.iter().any(|line| declares(line, kind).map(identifier) == Some(name)))
    };
    names.any(|name| !is_here(name))
}

/// A path that a file names, in a `use` or elsewhere.
struct Named {
    line: usize,
    /// As it stands there, and segment by segment as seen from the file.
    written: String,
    path: Vec<String>,
    /// What a `use` calls it in the whole file from there on.
    name: Option<String>,
    /// That `use` is a `pub` one, so that others find it here.
    is_passed_on: bool,
}

/// All paths in a file's code.
fn names(lines: &[&str]) -> Vec<Named> {
    let mut found = Vec::new();
    let mut inner_modules = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let (first, line) = (at, lines[at]);
        at += 1;
        if declares(line, "mod").is_some() && line.ends_with('{') {
            inner_modules.push(indentation(line));
        } else if line.trim() == "}" && inner_modules.last() == Some(&indentation(line)) {
            inner_modules.pop();
        }
        let tree = declares(line, "use");
        let paths = if let Some(tree) = tree {
            at += lines[first..].iter().position(|line| line.ends_with(';')).unwrap_or(0);
            flattened(&[&[tree], &lines[first + 1..at]].concat().join("\n"))
        } else {
            let words = line.split(|c: char| !c.is_alphanumeric() && c != '_' && c != ':');
            words.filter(|word| word.contains("::")).map(|word| (0, word.to_string())).collect()
        };
        for (below, text) in paths {
            let (written, alias) = text.split_once(" as ").unwrap_or((&text, ""));
            let mut path: Vec<String> = written.split("::").map(str::to_string).collect();
            let last = path.iter().rfind(|segment| *segment != "self").cloned();
            let name = if alias.is_empty() { last } else { Some(alias.to_string()) };
            // What stands above a module inside this file is this file.
            let above = path.iter().take_while(|segment| *segment == "super").count();
            let inside = above.min(inner_modules.len());
            path.splice(..inside, (inside > 0).then(|| "self".to_string()));
            found.push(Named {
                line: first + 1 + below,
                written: written.to_string(),
                path,
                name: name.filter(|_| tree.is_some() && inner_modules.is_empty()),
                is_passed_on: tree.is_some() && line.trim_start().starts_with("pub"),
            });
        }
    }
    found
}

/// `a::{b, c::{self, d}};` is `a::b`, `a::c::self` and `a::c::d`; each with the line that it stands on.
fn flattened(tree: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut prefixes = vec![String::new()];
    let mut word = String::new();
    let mut line = 0;
    for c in tree.chars() {
        let whole = format!("{}{}", prefixes[prefixes.len() - 1], word.trim());
        match c {
            '{' => prefixes.push(whole),
            ',' | '}' | ';' if !word.trim().is_empty() => found.push((line, whole)),
            '\n' => line += 1,
            _ => word.push(c),
        }
        if matches!(c, '{' | ',' | '}') {
            word.clear();
        }
        if c == '}' {
            prefixes.pop();
        }
    }
    found
}

/// The lines of a file; those of comments and of what stands under `#[cfg(test)]` are empty.
pub fn code(text: &str) -> Vec<&str> {
    let mut test: Option<usize> = None;
    let each = text.lines().map(|line| {
        let is_comment = line.trim_start().starts_with("//");
        if test.is_none() && is_for_tests(line) {
            test = Some(indentation(line));
        } else if let Some(indent) = test {
            let is_field = indentation(line) == indent && line.ends_with(',');
            test = test.filter(|_| is_comment || !(is_field || ends_item(line, indent)));
        } else if !is_comment {
            return line.split(" // ").next().unwrap_or("").trim_end();
        }
        ""
    });
    each.collect()
}

fn is_for_tests(line: &str) -> bool {
    ["#[cfg(test)]", "#[cfg(all(test,", "#[cfg(all(test)"]
        .iter()
        .any(|start| line.trim_start().starts_with(start))
}

/// Does an item that began with this indentation end here? (And not a text in it, of many lines.)
pub fn ends_item(line: &str, indent: usize) -> bool {
    indentation(line) == indent && line.ends_with([';', '}']) && !line.starts_with('"')
}

pub fn indentation(line: &str) -> usize {
    line.len() - line.trim_start().len()
}

/// What follows `keyword` in a line that declares such an item.
pub fn declares<'a>(line: &'a str, keyword: &str) -> Option<&'a str> {
    const BEFORE: [&str; 8] = [
        "pub ",
        "pub(crate) ",
        "pub(super) ",
        "const ",
        "async ",
        "unsafe ",
        "extern \"C\" ",
        "extern \"C-unwind\" ",
    ];
    let mut rest = line.trim_start();
    while let Some(after) = BEFORE.iter().find_map(|word| rest.strip_prefix(word)) {
        rest = after;
    }
    rest.strip_prefix(keyword)?.strip_prefix(' ')
}

/// The identifier that a text begins with.
pub fn identifier(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("")
}
