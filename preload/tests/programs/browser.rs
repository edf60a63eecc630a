//! A browser starts: many processes, sandboxed and forked from one that waits for it, with an allocator of their own.

use crate::shared::same_under_library;
use crate::support::installed;

const PAGE: &str = r#"<!DOCTYPE html>
<title>Tide</title>
<body>
<canvas id="canvas" width="300" height="200"></canvas>
<svg width="50" height="50"><circle cx="25" cy="25" r="20"/></svg>
<script>
const list = [];
for (let i = 0; i < 20000; i++) list.push({ name: `item ${i * 7919 % 10007}`, data: new Uint8Array(i % 500) });
list.sort((a, b) => a.name < b.name ? -1 : a.name > b.name ? 1 : a.data.length - b.data.length);
const context = document.getElementById('canvas').getContext('2d');
for (let i = 0; i < 100; i++) context.fillRect(i, i, i, 2);
const painted = context.getImageData(0, 0, 300, 200).data.reduce((sum, byte) => sum + byte, 0);
for (const { name, data } of list.slice(0, 30)) {
    const line = document.createElement('p');
    line.textContent = `${name} ${data.length}`;
    document.body.append(line);
}
document.title = `${painted} ${document.querySelectorAll('p').length}`;
</script>
"#;

#[test]
fn chromium_starts_and_shows_the_same() {
    let Some(chromium) = installed("chromium_starts_and_shows_the_same", "chromium") else {
        return;
    };
    let shown = same_under_library("chromium", &chromium, "", |command, scratch| {
        let page = scratch.write("page.html", PAGE);
        command.env("HOME", &scratch.0).env_remove("DBUS_SESSION_BUS_ADDRESS");
        // Root's browser has no sandbox, and where containers end there is little shared memory.
        command.args(["--headless", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]);
        command.args(["--no-first-run", "--disable-background-networking", "--dump-dom"]);
        command.arg(format!("--user-data-dir={}", scratch.join("profile").display()));
        command.arg(format!("file://{}", page.display()));
    });
    assert!(shown.contains("<p>item 0 "), "the page has run: {shown}");
}
