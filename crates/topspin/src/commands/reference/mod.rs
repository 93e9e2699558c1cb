//! `topspin reference`: writes docs/reference.md from the definitions of commands and configuration, so that the page
//! cannot drift from the program.

mod config;

use std::fmt::Write;

use clap::{Arg, CommandFactory};

use crate::cli::Cli;
use crate::commands::eval;
use crate::output;

/// Prints the page.
pub fn run() -> anyhow::Result<()> {
    output::print(|out| out.write_all(page().as_bytes()))
}

fn page() -> String {
    let mut program = Cli::command();
    program.build();
    let mut page = String::from(
        "# Reference\n\n<!-- Written by `topspin reference > docs/reference.md`; a test fails when it is not current. -->\n",
    );
    let globals: Vec<String> = program.get_arguments().map(|arg| arg.get_id().to_string()).collect();
    for command in program.get_subcommands().filter(|command| !command.is_hide_set() && command.get_name() != "help") {
        write_command(&mut page, command, "topspin", &globals);
    }
    page.push_str("\n## Flags of every command\n\n");
    program.get_arguments().for_each(|arg| write_flag(&mut page, arg));
    page.push_str(CONFIGURATION);
    page.push_str(&config::chapter());
    page.push_str(TASKS);
    page.push_str(&config::tasks());
    page.push_str(&eval::chapter());
    page
}

/// How the tables of a configuration are introduced.
const CONFIGURATION: &str = "\n## Configuration\n
`topspin run FILE` and `topspin sft FILE` read a TOML file of these tables; what it leaves out has the value shown here.
`--set table.key=value` overrides it. A key that may vary by iteration takes one value, or a list with one for each.
";

/// How the tasks of an evaluation are introduced.
const TASKS: &str = "\n## Tasks of an evaluation\n
`topspin eval --tasks FILE` reads a TOML file of `[[task]]` tables; [evaluation.md](evaluation.md) tells what they mean.
";

fn write_command(page: &mut String, command: &clap::Command, parent: &str, globals: &[String]) {
    let name = format!("{parent} {}", command.get_name());
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    let _ = writeln!(page, "\n## `{name}`\n\n{about}\n");
    let own = |arg: &&Arg| !globals.contains(&arg.get_id().to_string());
    // Positional arguments first, as they are typed.
    command.get_arguments().filter(own).filter(|arg| arg.is_positional()).for_each(|arg| write_flag(page, arg));
    command.get_arguments().filter(own).filter(|arg| !arg.is_positional()).for_each(|arg| write_flag(page, arg));
    if let Some(examples) = command.get_after_help() {
        let _ = writeln!(page, "\n```text\n{examples}\n```");
    }
    for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
        write_command(page, sub, &name, globals);
    }
}

/// One flag as an item of a list.
fn write_flag(page: &mut String, arg: &Arg) {
    let value = arg.get_action().takes_values().then(|| {
        let names = arg.get_value_names().unwrap_or_default();
        names.iter().map(|name| format!("<{name}>")).collect::<Vec<_>>().join(" ")
    });
    let names = [arg.get_short().map(|short| format!("-{short}")), arg.get_long().map(|long| format!("--{long}"))];
    let names = names.into_iter().flatten().collect::<Vec<_>>().join(", ");
    let usage =
        [Some(names), value].into_iter().flatten().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ");
    let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
    let (summary, rest) = help.split_once("\n\n").unwrap_or((&help, ""));
    let _ = write!(page, "- `{usage}`: {summary}");
    let choices = arg.get_possible_values();
    if !choices.is_empty() && arg.get_action().takes_values() {
        let said = choices.iter().filter(|choice| !choice.is_hide_set()).map(|choice| match choice.get_help() {
            Some(help) => format!("`{}` ({help})", choice.get_name()),
            None => format!("`{}`", choice.get_name()),
        });
        let _ = write!(page, "; one of {}", said.collect::<Vec<_>>().join(", "));
    }
    let defaults = arg.get_default_values().iter().map(|value| format!("`{}`", value.to_string_lossy()));
    let defaults = defaults.collect::<Vec<_>>().join(" ");
    if !defaults.is_empty() && arg.get_action().takes_values() {
        let _ = write!(page, "; default {defaults}");
    }
    page.push_str(if rest.is_empty() { "\n" } else { ". " });
    rest.split("\n\n").filter(|text| !text.is_empty()).for_each(|text| page.push_str(&format!("{text}\n")));
}
