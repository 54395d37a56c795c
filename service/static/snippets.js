// What a program would do to get the same answer.

/** A word of a POSIX shell, whatever is in the text. */
export function quoted(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

/** A file for curl's -F: in double quotes, as commas and semicolons mean something to it. */
function file(name) {
  return quoted(`files=@"${name.replaceAll("\\", "\\\\").replaceAll('"', '\\"')}"`);
}

export function curl(url, names) {
  return ["curl", ...names.map((name) => `-F ${file(name)}`), quoted(url)].join(" ");
}

export function python(url, names) {
  const files = names.map((name) => `    ("files", open(${JSON.stringify(name)}, "rb")),`);
  return `import httpx\n\nfiles = [\n${files.join("\n")}\n]\nprint(httpx.post(${JSON.stringify(url)}, files=files).json())\n`;
}
