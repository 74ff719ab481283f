'use strict';
// Reads JSON for people: its pieces, for colours, and what is wrong with it, and where.
{
    const PIECE = /\s+|"(?:[^"\\\n]|\\.)*"?|[{}[\],:]|[^\s"{}[\],:]+/gu;
    const NUMBER = /^-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?$/;
    const SOUND = /^"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*/;
    const UNSTORABLE = /\0|\p{Surrogate}/u;
    const CLOSING = {'{': '}', '[': ']'};

    function* readPieces(text) {
        for (const found of text.matchAll(PIECE)) {
            yield {text: found[0], place: found.index};
        }
    }

    function nameKind(piece, next) {
        if (piece.startsWith('"')) {
            return next === ':' ? 'key' : 'text';
        }
        if (NUMBER.test(piece)) {
            return 'number';
        }
        if (['true', 'false', 'null'].includes(piece)) {
            return 'word';
        }
        return piece in CLOSING || ']},:'.includes(piece) ? 'mark' : 'fault';
    }

    // Returns what is wrong with a piece that should be a value without pieces, or null.
    function describeScalar(text, isLast) {
        if (text.startsWith('"')) {
            return describeText(text, isLast);
        }
        if (nameKind(text) === 'fault') {
            const reason = text.trim()
                ? `${text.slice(0, 40)} is no value of JSON`
                : 'JSON does not have this kind of space';
            return {at: 0, reason};
        }
        const isFinite = !NUMBER.test(text) || Number.isFinite(Number(text));
        return isFinite ? null : {at: 0, reason: 'the number is too large'};
    }

    function describeText(text, isLast) {
        const sound = SOUND.exec(text)[0].length;
        if (sound === text.length) {
            const reason = 'the text is not closed by a double quote';
            return {at: isLast ? 0 : text.length, reason};
        }
        if (text[sound] === '\\') {
            const at = text[sound + 1] === 'u' ? sound + 1 : sound;
            return {at, reason: 'JSON has no such escape'};
        }
        if (text[sound] !== '"') {
            return {at: sound, reason: 'this character must be escaped'};
        }
        const isStorable = !UNSTORABLE.test(JSON.parse(text));
        return isStorable ? null : {at: 0, reason: 'the text holds NUL or half a character'};
    }

    // Walks over the pieces of one text and knows what may come next.
    class Reading {
        constructor() {
            this.open = [];
            this.wanted = 'value';
        }

        // Returns what is wrong with the next piece, or null.
        take(text, isLast) {
            const top = this.open.at(-1);
            const isFirst = this.wanted.startsWith('first');
            if (text === top?.closing && (isFirst || this.wanted === 'more')) {
                this.open.pop();
                this.wanted = 'more';
                return null;
            }
            if (this.wanted === 'more') {
                return this.takeComma(text, top);
            }
            if (this.wanted === 'colon') {
                this.wanted = 'value';
                return text === ':' ? null : {at: 0, reason: 'a colon must stand here'};
            }
            return this.wanted.endsWith('key')
                ? this.takeKey(text, top, isLast)
                : this.takeValue(text, isLast);
        }

        takeComma(text, top) {
            if (top === undefined) {
                return {at: 0, reason: 'nothing may follow the value'};
            }
            this.wanted = top.keys ? 'key' : 'value';
            return text === ',' ? null : {at: 0, reason: this.describeEnd()};
        }

        takeKey(text, top, isLast) {
            if (!text.startsWith('"')) {
                return {at: 0, reason: 'a key in double quotes must stand here'};
            }
            const fault = describeScalar(text, isLast);
            if (fault !== null) {
                return fault;
            }
            const key = JSON.parse(text);
            if (top.keys.has(key)) {
                return {at: 0, reason: `the key ${text.slice(0, 40)} stands twice in one object`};
            }
            top.keys.add(key);
            this.wanted = 'colon';
            return null;
        }

        takeValue(text, isLast) {
            if (text in CLOSING) {
                this.open.push({closing: CLOSING[text], keys: text === '{' ? new Set() : null});
                this.wanted = text === '{' ? 'first key' : 'first value';
                return null;
            }
            if (text.length === 1 && ']},:'.includes(text)) {
                return {at: 0, reason: 'a value must stand here'};
            }
            this.wanted = 'more';
            return describeScalar(text, isLast);
        }

        describeEnd() {
            const top = this.open.at(-1);
            return `a comma or ${top.closing} must stand here`;
        }

        // Returns what is lacking where the text ends, or null.
        finish() {
            if (this.wanted === 'more') {
                return this.open.length ? this.describeEnd() : null;
            }
            if (this.wanted === 'colon') {
                return 'a colon must stand here';
            }
            return `a ${this.wanted.replace('first ', '')} must stand here`;
        }
    }

    function findLine(text, place) {
        const before = text.slice(0, place);
        const start = before.lastIndexOf('\n') + 1;
        // Columns count characters, as the server does, and not halves of them.
        return {line: before.split('\n').length, column: [...before.slice(start)].length + 1};
    }

    // Returns `{line, column, reason}`, or null for a text that is JSON.
    function findFault(text) {
        const reading = new Reading();
        for (const piece of readPieces(text)) {
            const gap = /^[ \t\r\n]*/.exec(piece.text)[0].length;
            if (gap === piece.text.length) {
                continue;
            }
            const isLast = piece.place + piece.text.length === text.length;
            const fault = reading.take(piece.text.slice(gap), isLast);
            if (fault !== null) {
                return {...findLine(text, piece.place + gap + fault.at), reason: fault.reason};
            }
        }
        const reason = reading.finish();
        return reason === null ? null : {...findLine(text, text.length), reason};
    }

    // Puts a text into an element, each piece in its colour.
    function paint(element, text) {
        const pieces = [...readPieces(text)].map((piece) => piece.text);
        const painted = document.createDocumentFragment();
        pieces.forEach((piece, index) => {
            if (!piece.trim()) {
                painted.append(piece);
                return;
            }
            const next = pieces[index + 1]?.trim() ? pieces[index + 1] : pieces[index + 2];
            const span = document.createElement('span');
            span.className = `llm-json-${nameKind(piece, next)}`;
            span.textContent = piece;
            painted.append(span);
        });
        element.replaceChildren(painted);
    }

    window.llmJSON = {findFault, paint};
}
