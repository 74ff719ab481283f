'use strict';
// Colours JSON where it is shown, and where it is edited says whether it is any.
{
    const {findFault, paint} = window.llmJSON;
    const PAUSE_MILLISECONDS = 300;

    function describe(text) {
        if (!text.trim()) {
            return {said: 'empty', isFaulty: false};
        }
        const fault = findFault(text);
        return fault === null
            ? {said: 'valid JSON', isFaulty: false}
            : {said: `line ${fault.line}, column ${fault.column}: ${fault.reason}`, isFaulty: true};
    }

    // Lays a coloured copy under a text area; both lie in one cell of a grid and have one size.
    function enhance(area) {
        const frame = document.createElement('div');
        frame.className = 'llm-json-frame';
        const editor = document.createElement('div');
        editor.className = 'llm-json-editor';
        const layer = document.createElement('pre');
        layer.className = 'llm-json-layer';
        layer.setAttribute('aria-hidden', 'true');
        const state = document.createElement('div');
        state.className = 'llm-json-state';
        state.id = `${area.id}_state`;
        state.setAttribute('role', 'status');
        // The copy says how high they are.
        area.rows = 1;
        area.before(frame);
        editor.append(layer, area);
        frame.append(editor, state);
        const described = area.getAttribute('aria-describedby');
        area.setAttribute('aria-describedby', described ? `${described} ${state.id}` : state.id);
        follow(area, layer, state);
    }

    function follow(area, layer, state) {
        let pause;
        const tell = () => {
            const {said, isFaulty} = describe(area.value);
            state.textContent = said;
            state.classList.toggle('llm-json-faulty', isFaulty);
            area.setAttribute('aria-invalid', String(isFaulty));
        };
        const show = () => {
            // A line end at the end of a `pre` has no height of its own.
            paint(layer, `${area.value}\n`);
            clearTimeout(pause);
            pause = setTimeout(tell, PAUSE_MILLISECONDS);
        };
        area.addEventListener('input', show);
        area.form?.addEventListener('reset', () => setTimeout(show));
        show();
        tell();
    }

    function paintShown(root) {
        for (const shown of root.querySelectorAll('pre.llm-json:not(.llm-json-painted)')) {
            const folded = shown.closest('details:not([open])');
            if (folded !== null) {
                folded.addEventListener('toggle', () => paintShown(root), {once: true});
                continue;
            }
            shown.classList.add('llm-json-painted');
            paint(shown, shown.textContent);
        }
    }

    window.llmJSON.paintShown = paintShown;

    // At the end of the page; but nothing hinders a site from loading scripts at its head.
    function begin() {
        document.querySelectorAll('textarea.llm-json-input').forEach(enhance);
        paintShown(document);
    }

    if (document.readyState === 'loading') {
        document.addEventListener('DOMContentLoaded', begin);
    } else {
        begin();
    }
}
