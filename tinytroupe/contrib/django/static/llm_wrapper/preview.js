'use strict';
// The preview of a prompt template: posts what stands in the form, and shows what it becomes.
{
    function collect(form) {
        const data = new FormData(form);
        // The chosen side of Django's two boxes counts as chosen only while its form is submitted.
        for (const box of form.querySelectorAll('select.filtered[id$="_to"]')) {
            data.delete(box.name);
            for (const option of box.options) {
                data.append(box.name, option.value);
            }
        }
        return data;
    }

    async function fetchPreview(url, data) {
        const response = await fetch(url, {method: 'POST', body: data, credentials: 'same-origin'});
        if (response.redirected) {
            throw new Error('you are not logged in any more');
        }
        if (!response.ok) {
            throw new Error(`the site answered ${response.status} ${response.statusText}`);
        }
        return response.text();
    }

    function showFailure(result, error) {
        const said = document.createElement('p');
        said.className = 'errornote';
        said.textContent = `The preview failed: ${error.message}.`;
        result.replaceChildren(said);
    }

    function setValue(element, value) {
        element.value = value;
        element.dispatchEvent(new Event('input', {bubbles: true}));
    }

    // Puts the cursor into the line of a field that a fault names.
    function goToFault(event) {
        const link = event.target.closest('.llm-faults a');
        const field = link && document.getElementById(link.hash.slice(1));
        if (!field) {
            return;
        }
        event.preventDefault();
        field.focus();
        const line = Number(link.dataset.line);
        if (line && field.setSelectionRange) {
            const lines = field.value.split('\n');
            const start = lines.slice(0, line - 1).join('\n').length + (line > 1 ? 1 : 0);
            field.setSelectionRange(start, start + (lines[line - 1] ?? '').length);
        }
        field.scrollIntoView({block: 'center'});
    }

    function begin() {
        const panel = document.getElementById('llm-preview');
        if (panel === null) {
            return;
        }
        const button = document.getElementById('llm-preview-button');
        const result = document.getElementById('llm-preview-result');
        const variables = document.getElementById('id_preview-variables');
        const offered = document.getElementById('id_preview-offered');
        panel.hidden = false;
        result.addEventListener('click', goToFault);
        button.addEventListener('click', async () => {
            button.disabled = true;
            result.setAttribute('aria-busy', 'true');
            try {
                // Django has escaped all that is not its template's.
                result.innerHTML = await fetchPreview(panel.dataset.url, collect(button.form));
                const shown = result.querySelector('.llm-preview-shown');
                offered.value = shown.dataset.offered;
                if (shown.dataset.variables) {
                    setValue(variables, shown.dataset.variables);
                }
            } catch (error) {
                showFailure(result, error);
            } finally {
                button.disabled = false;
                result.removeAttribute('aria-busy');
            }
        });
    }

    if (document.readyState === 'loading') {
        document.addEventListener('DOMContentLoaded', begin);
    } else {
        begin();
    }
}
