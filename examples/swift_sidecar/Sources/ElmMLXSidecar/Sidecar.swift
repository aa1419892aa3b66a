import Foundation

/// A tool that a model may call: it gets the arguments, and returns what the model is told.
public typealias SidecarTool = @Sendable (JSONValue) async throws -> JSONValue

/// A client of `elm-mlx serve --stdio`, which it starts as its child. docs/sidecar.md describes the protocol.
///
/// Where the process dies, requests under way throw `SidecarError.ended`, and the next one starts it again; sessions are
/// then gone, and are to be opened anew with their transcripts.
public actor Sidecar {
    private let executable: URL
    private let arguments: [String]
    private let tools: [String: SidecarTool]
    private var child: Child?
    private var run = 0  // counts the starts of the process: what an earlier one still writes is not heard
    private var reader = LineReader()
    private var lastID = 0
    private var answers: [Int: CheckedContinuation<JSONValue, any Error>] = [:]
    private var deltas: [Int: AsyncThrowingStream<SidecarDelta, any Error>.Continuation] = [:]
    private var toolRuns: [String: Task<Void, Never>] = [:]
    private var isStopped = false
    #if canImport(Darwin)
    private var pressure: (any DispatchSourceMemoryPressure)?
    #endif

    /// Takes the program `elm-mlx`, and the functions for the tools of sessions, by name.
    public init(
        executable: URL, arguments: [String] = ["serve", "--stdio"], tools: [String: SidecarTool] = [:]
    ) {
        self.executable = executable
        self.arguments = arguments
        self.tools = tools
    }

    /// Asks for the result of a method. Cancelling the task cancels the request. Throws `SidecarError`.
    public func call(_ method: String, _ params: [String: JSONValue] = [:]) async throws -> JSONValue {
        try await start()
        return try await request(method, params)
    }

    /// Asks in a session: the answer's parts as they come, the whole result with the last one. Leaving the loop, or
    /// cancelling its task, cancels the request.
    public func respond(
        session: String, to prompt: String, params: [String: JSONValue] = [:]
    ) async throws -> AsyncThrowingStream<SidecarDelta, any Error> {
        var all = params
        all["session"] = .string(session)
        all["prompt"] = .string(prompt)
        return try await stream("session/respond", all)
    }

    /// Asks for the completion of a text, as `respond` does.
    public func generate(
        _ prompt: String, params: [String: JSONValue] = [:]
    ) async throws -> AsyncThrowingStream<SidecarDelta, any Error> {
        var all = params
        all["prompt"] = .string(prompt)
        return try await stream("generate", all)
    }

    /// Tells the process from now on where the system is short of memory.
    public func followMemoryPressure() {
        #if canImport(Darwin)
        guard pressure == nil else { return }
        let source = DispatchSource.makeMemoryPressureSource(
            eventMask: [.warning, .critical], queue: .global(qos: .utility))
        source.setEventHandler { [weak self, weak source] in
            guard let self, let event = source?.data else { return }
            let level = event.contains(.critical) ? "critical" : "warn"
            Task { await self.relieve(level) }
        }
        source.activate()
        pressure = source
        #endif
    }

    /// Ends the process, for good.
    public func stop() {
        isStopped = true
        #if canImport(Darwin)
        pressure?.cancel()
        pressure = nil
        #endif
        child?.end()
        lose()
    }

    // MARK: - The process

    private func start() async throws {
        if isStopped { throw SidecarError.notRunning }
        if child != nil { return }
        run += 1
        let number = run
        reader = LineReader()
        // One stream keeps the chunks in their order; a task for each would not.
        let (chunks, sink) = AsyncStream<Data>.makeStream()
        child = try Child(executable: executable, arguments: arguments) { chunk in
            if chunk.isEmpty {
                sink.finish()
            } else {
                sink.yield(chunk)
            }
        }
        Task { [weak self] in
            for await chunk in chunks {
                await self?.take(chunk, from: number)
            }
            await self?.lose(run: number)
        }
        let pid = Int(ProcessInfo.processInfo.processIdentifier)
        _ = try await request("initialize", ["protocolVersion": 1, "processId": .number(Double(pid))])
    }

    /// The process has ended: nobody waits for it any more.
    private func lose(run number: Int? = nil) {
        if let number, number != run { return }
        child = nil
        let waiting = answers
        let reading = deltas
        answers = [:]
        deltas = [:]
        toolRuns.values.forEach { $0.cancel() }
        toolRuns = [:]
        waiting.values.forEach { $0.resume(throwing: SidecarError.ended) }
        reading.values.forEach { $0.finish(throwing: SidecarError.ended) }
    }

    private func relieve(_ level: String) async {
        guard child != nil else { return }  // a process that does not run holds no memory
        _ = try? await request("memory/pressure", ["level": .string(level)])
    }

    // MARK: - Requests

    private func request(_ method: String, _ params: [String: JSONValue]) async throws -> JSONValue {
        lastID += 1
        let id = lastID
        return try await withTaskCancellationHandler {
            try Task.checkCancellation()
            return try await withCheckedThrowingContinuation { continuation in
                guard child != nil else {
                    continuation.resume(throwing: SidecarError.ended)
                    return
                }
                answers[id] = continuation
                send(["id": .number(Double(id)), "method": .string(method), "params": .object(params)])
            }
        } onCancel: {
            Task { await self.cancel(id) }
        }
    }

    private func stream(
        _ method: String, _ params: [String: JSONValue]
    ) async throws -> AsyncThrowingStream<SidecarDelta, any Error> {
        try await start()
        guard child != nil else { throw SidecarError.ended }
        lastID += 1
        let id = lastID
        let (stream, continuation) = AsyncThrowingStream<SidecarDelta, any Error>.makeStream()
        continuation.onTermination = { [weak self] reason in
            guard case .cancelled = reason else { return }
            Task { [weak self] in await self?.cancel(id) }
        }
        deltas[id] = continuation
        send(["id": .number(Double(id)), "method": .string(method), "params": .object(params)])
        return stream
    }

    private func cancel(_ id: Int) {
        guard answers[id] != nil || deltas[id] != nil else { return }
        send(["method": "$/cancel", "params": ["id": .number(Double(id))]])
    }

    private func send(_ fields: [String: JSONValue]) {
        var message = fields
        message["jsonrpc"] = "2.0"
        guard var line = try? JSONEncoder().encode(JSONValue.object(message)) else { return }
        line.append(UInt8(ascii: "\n"))
        child?.write(line)
    }

    // MARK: - What the process says

    private func take(_ chunk: Data, from number: Int) {
        guard number == run else { return }
        for line in reader.lines(endedBy: chunk) {
            if let message = try? JSONDecoder().decode(JSONValue.self, from: line) {
                take(message)
            }
        }
    }

    private func take(_ message: JSONValue) {
        let params = message["params"]
        switch message["method"]?.text {
        case nil:
            settle(message)
        case "tool/call":
            runTool(message)
        case "$/cancel":
            if let id = params?["id"]?.text {
                toolRuns.removeValue(forKey: id)?.cancel()
            }
        default:
            if let id = params?["request"]?.whole, let text = params?["text"]?.text {
                deltas[id]?.yield(SidecarDelta(text: text, kind: params?["kind"]?.text ?? "text", result: nil))
            }
        }
    }

    private func settle(_ message: JSONValue) {
        guard let id = message["id"]?.whole else { return }
        let failure = message["error"].map { SidecarError($0) }
        let result = message["result"] ?? .null
        if let continuation = answers.removeValue(forKey: id) {
            if let failure {
                continuation.resume(throwing: failure)
            } else {
                continuation.resume(returning: result)
            }
        } else if let continuation = deltas.removeValue(forKey: id) {
            if let failure {
                continuation.finish(throwing: failure)
            } else {
                continuation.yield(SidecarDelta(text: "", kind: "end", result: result))
                continuation.finish()
            }
        }
    }

    private func runTool(_ message: JSONValue) {
        guard let id = message["id"]?.text, let params = message["params"] else { return }
        let tool = params["name"]?.text.flatMap { tools[$0] }
        toolRuns[id] = Task {
            do {
                guard let tool else { throw SidecarError.refused(code: 0, message: "There is no such tool.", kind: nil) }
                let result = try await tool(params["arguments"] ?? [:])
                answer(id, ["result": result])
            } catch {
                answer(id, ["error": ["code": -32000, "message": .string(error.localizedDescription)]])
            }
        }
    }

    private func answer(_ id: String, _ fields: [String: JSONValue]) {
        guard toolRuns.removeValue(forKey: id) != nil else { return }  // nobody waits any more
        send(fields.merging(["id": .string(id)]) { first, _ in first })
    }
}

/// A part of an answer. The last one has kind "end" and the whole result.
public struct SidecarDelta: Sendable {
    public let text: String
    public let kind: String
    public let result: JSONValue?
}
