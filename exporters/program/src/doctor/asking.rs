//! Questions to the kernel that may end who asks them: a filter of system calls kills for a call that it does not
//! know. A child asks, and its end is the answer.

use std::io;

use super::finding::{Finding, less};

/// What became of a question.
#[derive(Debug)]
pub enum Answer {
    /// It was answered.
    Said(u8),
    /// This signal ended who asked.
    Ended(libc::c_int),
    /// Nobody could ask.
    NotAsked(io::Error),
}

/// The answers to a question that has two.
pub const NO: u8 = 0;
pub const YES: u8 = 1;

/// Asks in a child. `question` must not panic, and leaves what the process shares with others as it is.
pub fn ask(question: impl FnOnce() -> u8) -> Answer {
    // SAFETY: this program has one thread of libc's here, so the child's heap and locks are whole, and the child
    // leaves by `_exit` alone.
    match unsafe { libc::fork() } {
        -1 => Answer::NotAsked(io::Error::last_os_error()),
        0 => {
            let answer = question();
            // SAFETY: takes a number; what the parent has not written yet stays the parent's.
            unsafe { libc::_exit(answer.into()) }
        }
        child => end_of(child),
    }
}

fn end_of(child: libc::pid_t) -> Answer {
    let mut status = 0;
    loop {
        // SAFETY: a child of this process that nobody else waits for, and a valid place.
        if unsafe { libc::waitpid(child, &mut status, 0) } == child {
            break;
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Answer::NotAsked(error);
        }
    }
    if libc::WIFEXITED(status) {
        Answer::Said(libc::WEXITSTATUS(status) as u8)
    } else {
        Answer::Ended(libc::WTERMSIG(status))
    }
}

/// What there is to say of a thing that could not be tried: nothing is known against it.
pub fn untried(what: &'static str, error: &io::Error) -> Finding {
    less(what, format!("not known: no child can be made to try it: {error}"))
}

/// What a refusal of another kind than the kernel's own means.
pub fn without_answer(answer: &Answer) -> String {
    match answer {
        Answer::Ended(libc::SIGSYS) => {
            "a filter of system calls ends the program for it".to_string()
        }
        Answer::Ended(signal) => format!("signal {signal} ended who tried"),
        Answer::NotAsked(error) => format!("it could not be tried: {error}"),
        Answer::Said(_) => "it is refused".to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Mark;
    use super::*;

    #[test]
    fn what_could_not_be_tried_is_neither_there_nor_absent() {
        let finding = untried("clone", &io::Error::from_raw_os_error(libc::EAGAIN));
        assert!(finding.mark == Mark::Less && finding.says.contains("not known"));
    }

    #[test]
    fn an_answer_is_what_the_child_says_or_its_end() {
        assert!(matches!(ask(|| 7), Answer::Said(7)));
        // SAFETY: ends the child alone, which is the one to call it.
        let answer = ask(|| unsafe { libc::raise(libc::SIGKILL) } as u8);
        assert!(matches!(answer, Answer::Ended(libc::SIGKILL)), "{answer:?}");
        assert_eq!(without_answer(&answer), "signal 9 ended who tried");
    }
}
