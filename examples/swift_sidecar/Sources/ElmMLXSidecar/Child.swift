import Foundation

/// One run of the sidecar's process, with its pipes. Bytes are written by a queue of its own, since a write waits where
/// the process does not read.
final class Child: @unchecked Sendable {  // `process` is only asked to start and to end; `input` is the queue's
    private let process = Process()
    private let input = Pipe()
    private let output = Pipe()
    private let writing = DispatchQueue(label: "elm-mlx.sidecar.writing")

    /// Starts the process. `received` gets what it writes, in order, and an empty chunk at its end.
    init(executable: URL, arguments: [String], received: @escaping @Sendable (Data) -> Void) throws {
        process.executableURL = executable
        process.arguments = arguments
        process.standardInput = input
        process.standardOutput = output
        // Standard error stays the app's own: a pipe that nobody reads would fill up and block the process.
        output.fileHandleForReading.readabilityHandler = { handle in
            let chunk = handle.availableData  // empty at the end
            if chunk.isEmpty {
                handle.readabilityHandler = nil
            }
            received(chunk)
        }
        signal(SIGPIPE, SIG_IGN)  // a write to a process that has died is an error, and does not end the app
        try process.run()
    }

    /// Writes a line. Where the process has died, its output's end tells so.
    func write(_ line: Data) {
        writing.async { [self] in
            try? input.fileHandleForWriting.write(contentsOf: line)
        }
    }

    /// Ends the process: it ends by itself once its standard input is closed.
    func end() {
        writing.async { [self] in
            try? input.fileHandleForWriting.close()
        }
        DispatchQueue.global().asyncAfter(deadline: .now() + 15) { [self] in
            if process.isRunning {
                process.terminate()
            }
        }
    }
}
